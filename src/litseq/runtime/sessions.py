"""onnxruntime sessions: threads that do not fight, one clear line when a graph cannot be used.

onnxruntime's global thread pool would let all sessions share their threads, but once it exists, `InferenceSession` fails
for everybody else in the process who did not ask for it (measured on 1.32). So every session has its own pool, and only
those that run all the time (decoders) let their threads spin between calls.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime

from litseq.errors import BundleError, UsageError


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


Session = onnxruntime.InferenceSession
Binding = Any  # onnxruntime.IOBinding is not typed
