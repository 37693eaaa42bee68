"""onnxruntime sessions: threads that do not fight, weights in memory once, one clear line when a graph cannot be used.

A session has a pool of threads of its own, unless `share_threads` gave the process one pool for all. That is no default:
once onnxruntime's global pool exists, `InferenceSession` fails for everybody else in the process who does not ask for it
(measured on 1.32). Only decoders, which run all the time, let their threads spin between calls; encoders within them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from litseq.errors import BundleError, UsageError
from litseq.runtime.integers import check_integer
from litseq.runtime.processor import this_processor

Session = onnxruntime.InferenceSession

_ELEMENT_TYPES = {
    np.dtype(name): number
    for name, number in (
        ("float32", 1), ("uint8", 2), ("int8", 3), ("int32", 6), ("int64", 7), ("bool", 9), ("float16", 10),
    )
}  # fmt: skip  # onnx.TensorProto.DataType

_SLOW_FUSIONS = "SkipLayerNormFusion"
"""onnxruntime 1.32 sums rows one number at a time in SkipLayerNormalization: 20 us for 8 rows of 512 numbers, where Add,
Add and LayerNormalization take 4.4 together (80 and 14 for 32 rows)."""

_SPIN_MICROSECONDS = "1000"
"""How long a thread waits busily before it sleeps: longer than the loop takes between two steps. By default it was 50 ms
(measured on 1.32), for which a decoder's threads stood beside the encoder's: an encoder's call took 76 instead of 40 ms."""

_WANTS_GLOBAL_POOL = "use_per_session_threads must be false"

_shared_threads: int | None = None
_shared_lock = threading.Lock()


def default_threads() -> int:
    """Physical cores this process may use: a second thread on one core only slows matrix products down."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, min(len(cores), _cpu_quota()))


def share_threads(threads: int | None = None) -> int:
    """Let all generators that this process loads from now on share one pool of threads.

    For a process with several generators that runs nothing else on onnxruntime. The pool stays until the process ends,
    and other libraries' sessions then fail unless they set `SessionOptions.use_per_session_threads = False`. A
    generator's own `threads` no longer counts.

    Args:
        threads: Threads of a call, the caller's own among them; None means `default_threads`.

    Returns:
        The threads of the pool.

    Raises:
        UsageError: when the process shares a pool of another size already.
    """
    global _shared_threads
    wanted = check_threads(threads)
    with _shared_lock:
        if _shared_threads is None:
            onnxruntime.set_global_thread_pool_sizes(wanted, 1)
            _shared_threads = wanted
        elif threads is not None and threads != _shared_threads:
            raise UsageError(
                f"this process shares a pool of {_shared_threads} threads already, and onnxruntime cannot change it to "
                f"{threads}; call share_threads once, before the first generator"
            )
        return _shared_threads


def create_session(
    file: Path,
    threads: int,
    *,
    spinning: bool = True,
    lingering: bool = True,
    data: Mapping[str, NDArray[np.uint8]] | None = None,
) -> onnxruntime.InferenceSession:
    """A CPU session for one graph.

    Args:
        file: The graph.
        threads: Threads of a call, the caller's own among them; unless the process shares a pool.
        spinning: Let the others wait busily for work: quickest where the cores are free, slow where they are not.
        lingering: Let them do so between calls too, and not only within one.
        data: The contents of the files in which the graph keeps its weights, by name; used where they lie, so they must
            live as long as the session. Without it onnxruntime maps the files itself.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    # A pool that is shared knows no setting of its own, but a session can send it to sleep after a call.
    options.add_session_config_entry("session.force_spinning_stop", "0" if spinning and lingering else "1")
    options.add_session_config_entry("optimization.disable_specified_optimizers", _SLOW_FUSIONS)
    if not this_processor().has_vnni:
        # Pairs of 8-bit products are added in 16 bits, which overflow: take the exact way. Where VNNI makes every way
        # exact, onnxruntime 1.32 would take it too, for nothing: products take 2.5 times as long.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if data:
        options.add_external_initializers_from_files_in_memory(
            list(data), list(data.values()), [len(content) for content in data.values()]
        )
        options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
    try:
        try:
            return _load(file, options, threads, shared=_shared_threads is not None)
        except RuntimeError as error:
            if _WANTS_GLOBAL_POOL not in str(error):
                raise
            # Somebody else in this process made the global pool; then there is no other.
            return _load(file, options, threads, shared=True)
    except Exception as error:  # onnxruntime raises its own kinds, all of them plain RuntimeErrors or worse
        reason = " ".join(str(error).split())[:300]
        raise BundleError(f"{file} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}") from error


def check_threads(threads: int | None) -> int:
    """The number of threads to use; None means `default_threads`."""
    if threads is None:
        return default_threads()
    return check_integer("threads", threads, 1, 1024, expected="an integer from 1 to 1024, or None for one a core")


def _load(file: Path, options: Any, threads: int, *, shared: bool) -> onnxruntime.InferenceSession:
    options.use_per_session_threads = not shared
    if not shared:
        options.intra_op_num_threads = threads
    # Without enable_fallback=0 a failure is printed to stdout and tried a second time.
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"], enable_fallback=0)


@cache
def _release_arena() -> onnxruntime.RunOptions:
    # A session's arena keeps what its largest call took: 195 of 320 MB after 4000 tokens of a 110 M model. Giving it back
    # takes no time that could be measured for such a call, and a quarter of a small model's step.
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:  # the system does not say: it counts as a core of its own
        return str(cpu)


def _cpu_quota() -> int:
    """CPUs the container's cgroup grants, rounded up; onnxruntime does not look at it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or `max`: no limit
        return 1 << 30


class Binding:
    """One bound call of a graph; run it as often as its arrays stay where they are.

    A binding takes some 37 us for the 32 tensors of a small model, a fifth of a step: keep it while memory does not move.
    Tensors are handed over as `OrtValue`s, which takes a third of the time that `bind_input` takes with an address.
    """

    __slots__ = ("_arrays", "io", "is_large")

    def __init__(self, session: onnxruntime.InferenceSession, *, is_large: bool = False) -> None:
        """Bind nothing yet; a large call gives the memory of its activations back when it is done."""
        self.io = session.io_binding()
        self.is_large = is_large
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

    def run(self, session: onnxruntime.InferenceSession) -> None:
        """Run the call; `session` is the one it was bound for."""
        session.run_with_iobinding(self.io, _release_arena() if self.is_large else None)

    def _value(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        if not array.flags.c_contiguous:  # onnxruntime would read it as if it were
            raise AssertionError(f"bound an array of strides {array.strides} and shape {array.shape}")
        self._arrays.append(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ELEMENT_TYPES[array.dtype])
