"""onnxruntime sessions: one shared thread pool, one clear line when a graph cannot be used."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import onnxruntime

from litseq.errors import BundleError, UsageError

_lock = threading.Lock()
_pool_threads: int | None = None


def default_threads() -> int:
    """Physical cores this process may use: a second thread on one core only slows matrix products down."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(cpu) for cpu in usable}
    return max(1, min(len(cores), _cpu_quota()))


def create_session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """A CPU session for one graph.

    The first call in a process makes onnxruntime's global thread pool, and every later session that asks for as many
    threads shares it: encoder and decoder never fight with two spinning pools. Sessions that ask for another number get
    a pool of their own.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if _share_pool(threads):
        options.use_per_session_threads = False
    else:
        options.intra_op_num_threads = threads
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


def _share_pool(threads: int) -> bool:
    global _pool_threads
    with _lock:
        if _pool_threads is None:
            try:
                onnxruntime.set_global_thread_pool_sizes(threads, 1)
                _pool_threads = threads
            except Exception:  # somebody else in this process made the pool, of a size we cannot know
                _pool_threads = 0
        return _pool_threads == threads


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


Session = onnxruntime.InferenceSession
Binding = Any  # onnxruntime.IOBinding is not typed
