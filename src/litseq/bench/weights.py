"""What a call of a graph reads and multiplies, from the graph file itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from litseq.bench.wire import fields, integers
from litseq.bundle import Bundle
from litseq.errors import BundleError

# onnx.TensorProto.DataType: bits of one element.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16, 21: 4, 22: 4}
_LOOKUPS = ("Gather", "GatherBlockQuantized")
"""Operators that read a few rows of a table and not all of it."""
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "Conv")


@dataclass(frozen=True)
class GraphWeights:
    """What one call of a graph reads whole, and what it multiplies for every token."""

    bytes: int
    """Of all weights but tables that are only looked up in."""
    multiplied: int
    """Elements of the matrices that every token is multiplied with: two operations each."""
    head: int
    """Elements of those behind them that only the tokens whose logits are wanted are multiplied with."""
    integer: bool
    """Whether most of both are whole numbers of 8 bits or fewer."""


def decoder_weights(bundle: Bundle) -> GraphWeights:
    """Of the decoder: what a step reads.

    Raises:
        BundleError: the graph cannot be read.
    """
    decoder = bundle.manifest.decoder
    return read_weights(bundle.file(decoder.file), decoder.inputs["logit_rows"])


def cache_bytes(bundle: Bundle) -> int:
    """Bytes of the caches for one token of one row."""
    growing = [c for c in bundle.manifest.decoder.cache if "capacity" in c.dims]
    return sum(math.prod(d for d in c.dims if isinstance(d, int)) * np.dtype(c.dtype).itemsize for c in growing)


def cross_bytes(bundle: Bundle) -> int:
    """Bytes of what the encoder made of one source token of one row."""
    cross = bundle.manifest.decoder.cross
    return sum(math.prod(d for d in c.dims if isinstance(d, int)) * np.dtype(c.dtype).itemsize for c in cross)


def read_weights(file: Path, wanted: str | None = None) -> GraphWeights:
    """Count a graph's weights by who uses them.

    Args:
        file: The graph.
        wanted: The input that says whose logits are wanted; what depends on it is the head.

    Raises:
        BundleError: the file is no ONNX graph.
    """
    try:
        return _count(memoryview(file.read_bytes()), wanted)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{file} cannot be read as an ONNX graph: {error}; export the bundle again") from error


@dataclass(frozen=True)
class _Tensor:
    name: str
    dims: tuple[int, ...]
    bits: int

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * self.bits // 8


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int]


def _count(data: memoryview, wanted: str | None) -> GraphWeights:
    graph = next((value for number, value in fields(data) if number == 7), None)
    if not isinstance(graph, memoryview):
        raise ValueError("it holds no graph")
    nodes, tensors = [], {}
    for number, value in fields(graph):
        if number == 1 and isinstance(value, memoryview):
            nodes.append(_node(value))
        elif number == 5 and isinstance(value, memoryview):
            tensor = _tensor(value)
            tensors[tensor.name] = tensor
    read: set[str] = set()
    behind = {wanted}
    elements = {(head, integer): 0 for head in (False, True) for integer in (False, True)}
    for node in nodes:  # in the order in which they run
        if not behind.isdisjoint(node.inputs):
            behind.update(node.outputs)
        if node.kind not in _LOOKUPS:
            read |= {tensors[name].name for name in node.inputs if name in tensors}
        elif len(node.inputs) > 1 and node.inputs[0] not in tensors:
            read |= {tensors[name].name for name in node.inputs[1:] if name in tensors}
        if node.kind == "Transpose" and node.inputs[0] in tensors:
            # A tied table is turned over before it is multiplied with.
            tensors[node.outputs[0]] = tensors[node.inputs[0]]
        count, integer = _matrix(node, tensors)
        elements[not behind.isdisjoint(node.inputs), integer] += count
    return GraphWeights(
        sum(tensors[name].bytes for name in read),
        elements[False, False] + elements[False, True],
        elements[True, False] + elements[True, True],
        elements[False, True] + elements[True, True] > elements[False, False] + elements[True, False],
    )


def _matrix(node: _Node, tensors: dict[str, _Tensor]) -> tuple[int, bool]:
    """Elements of the matrix, or the stack of them, that a node multiplies with, and whether they are quantised."""
    if {"K", "N"} <= set(node.attributes):  # MatMulNBits, whose weights are packed
        return node.attributes["K"] * node.attributes["N"], True
    if node.kind not in _PRODUCTS:
        return 0, False
    matrices = [tensors[name] for name in node.inputs if name in tensors and len(tensors[name].dims) > 1]
    largest = max(matrices, key=lambda tensor: math.prod(tensor.dims), default=None)
    return (math.prod(largest.dims), largest.bits <= 8) if largest else (0, False)


def _node(data: memoryview) -> _Node:
    kind, inputs, outputs, attributes = "", [], [], {}
    for number, value in fields(data):
        if number == 1 and isinstance(value, memoryview):
            inputs.append(bytes(value).decode())
        elif number == 2 and isinstance(value, memoryview):
            outputs.append(bytes(value).decode())
        elif number == 4 and isinstance(value, memoryview):
            kind = bytes(value).decode()
        elif number == 5 and isinstance(value, memoryview):
            parts = dict(fields(value))
            name, whole = parts.get(1), parts.get(3)
            if isinstance(name, memoryview) and isinstance(whole, int):
                attributes[bytes(name).decode()] = whole
    return _Node(kind, tuple(inputs), tuple(outputs), attributes)


def _tensor(data: memoryview) -> _Tensor:
    dims: list[int] = []
    name, kind = "", 1
    for number, value in fields(data):
        if number == 1:
            dims += integers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, memoryview):
            name = bytes(value).decode()
    return _Tensor(name, tuple(dims), _BITS.get(kind, 32))
