"""What this machine can do at best: reading memory, and multiplying matrices in onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime

from litseq.bench.wire import message
from litseq.generation import FloatArray

_Reduce = Callable[[FloatArray], object]

_READ_BYTES = 256 * 2**20
"""Larger than any cache."""
_ROUNDS = 7
_MATRIX = (512, 2048, 2048)  # M, K, N of the products
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # onnx.TensorProto.DataType


@dataclass(frozen=True)
class Limits:
    """Bytes and operations a second; a multiplication and an addition are two operations."""

    threads: int
    bandwidth: float
    """Bytes a second read from memory."""
    float_operations: float
    """Of a product of float32 matrices."""
    integer_operations: float
    """Of a product of int8 matrices."""


def measure_limits(threads: int) -> Limits:
    """Measure all three; takes a few seconds and 256 MB."""
    return Limits(threads, read_bandwidth(threads), matmul_speed(threads), matmul_speed(threads, integer=True))


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads read from memory: the best of several rounds of three ways to read."""
    data = np.ones(_READ_BYTES // 4, np.float32)
    # None of these goes through BLAS, which would bring threads of its own; numpy lets other threads run meanwhile.
    ways: tuple[_Reduce, ...] = (
        np.maximum.reduce,
        lambda part: np.maximum.reduce(part.view(np.float64)),
        lambda part: np.einsum("i->", part),
    )
    parts = np.array_split(data, threads)
    with ThreadPoolExecutor(threads) as pool:
        return data.nbytes / min(_seconds(partial(_read, pool, way, parts)) for way in ways)


def _read(pool: ThreadPoolExecutor, way: _Reduce, parts: list[FloatArray]) -> None:
    list(pool.map(way, parts))


def matmul_speed(threads: int, *, integer: bool = False) -> float:
    """Operations a second of onnxruntime's matrix product with constant weights."""
    m, k, n = _MATRIX
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    graph = matmul_graph(k, n, integer=integer)
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    x = np.ones((m, k), np.uint8 if integer else np.float32)
    best = _seconds(lambda: session.run(None, {"x": x}))
    return 2 * m * k * n / best


def matmul_graph(k: int, n: int, *, integer: bool) -> bytes:
    """An ONNX model that multiplies `x` [M, k] with a constant matrix [k, n]."""
    weights = np.random.default_rng(0).integers(-100, 100, (k, n)).astype(np.int8 if integer else np.float32)
    node = message((1, "x"), (1, "w"), (2, "y"), (4, "MatMulInteger" if integer else "MatMul"))
    tensor = message((1, k), (1, n), (2, _INT8 if integer else _FLOAT), (8, "w"), (9, weights.tobytes()))
    given = _value("x", _UINT8 if integer else _FLOAT, k)
    result = _value("y", _INT32 if integer else _FLOAT, n)
    graph = message((1, node), (2, "product"), (5, tensor), (11, given), (12, result))
    return message((1, 8), (7, graph), (8, message((1, ""), (2, 17))))


def _value(name: str, kind: int, columns: int) -> bytes:
    shape = message((1, message((2, "rows"))), (1, message((1, columns))))
    return message((1, name), (2, message((1, message((1, kind), (2, shape))))))


def _seconds(call: Callable[[], object]) -> float:
    """The quickest of several calls: a limit is what the machine can do, not what it does on average."""
    call()
    best = float("inf")
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
