"""onnxruntime sessions: threads that do not fight, one clear line when a graph cannot be used.

onnxruntime's global thread pool would let all sessions share their threads, but once it exists, `InferenceSession` fails
for everybody else in the process who did not ask for it (measured on 1.32). So every session has its own pool, and only
those that run all the time (decoders) let their threads spin between calls.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from litseq.errors import BundleError, UsageError

Session = onnxruntime.InferenceSession

_ELEMENT_TYPES = {
    np.dtype(name): number
    for name, number in (
        ("float32", 1), ("uint8", 2), ("int8", 3), ("int32", 6), ("int64", 7), ("bool", 9), ("float16", 10),
    )
}  # fmt: skip  # onnx.TensorProto.DataType


def default_threads() -> int:
    """Physical cores this process may use: a second thread on one core only slows matrix products down."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, min(len(cores), _cpu_quota()))


def create_session(file: Path, threads: int, *, spinning: bool = True) -> onnxruntime.InferenceSession:
    """A CPU session for one graph.

    Args:
        file: The graph.
        threads: Threads of a call, the caller's own among them.
        spinning: Let the others wait busily for the next call: quickest where the cores are free, slow where they are not.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own kinds, all of them plain RuntimeErrors or worse
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{file} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}") from error


def check_threads(threads: int | None) -> int:
    """The number of threads to use; None means `default_threads`."""
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise UsageError(f"threads is {threads!r}, expected an integer from 1 to 1024, or None for one a core")
    return threads


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _cpu_quota() -> int:
    """CPUs the container's cgroup grants, rounded up; onnxruntime does not look at it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return 1 << 30


class Binding:
    """One bound call of a graph; run it as often as its arrays stay where they are.

    A binding takes some 37 us for the 32 tensors of a small model, a fifth of a step: keep it while memory does not move.
    Tensors are handed over as `OrtValue`s, which takes a third of the time that `bind_input` takes with an address.
    """

    __slots__ = ("_arrays", "io")

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.io = session.io_binding()
        self._arrays: list[NDArray[Any]] = []  # onnxruntime knows their addresses and does not keep them alive

    def input(self, name: str, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """Read the input `name` from `array`; what comes back can be bound as an output too."""
        value = self._value(array)
        self.io.bind_ortvalue_input(name, value)
        return value

    def output(self, name: str, target: NDArray[Any] | onnxruntime.OrtValue) -> None:
        """Write the output `name` into an array, or over an input."""
        value = target if isinstance(target, onnxruntime.OrtValue) else self._value(target)
        self.io.bind_ortvalue_output(name, value)

    def _value(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        if not array.flags.c_contiguous:  # onnxruntime would read it as if it were
            raise AssertionError(f"bound an array of strides {array.strides} and shape {array.shape}")
        self._arrays.append(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ELEMENT_TYPES[array.dtype])
