"""A run as a process of its own: what it dies of costs no other run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from litseq.compare.files import FAILED, LOG, PROGRESS, read_json

_LOOK = 0.2
_GRACE = 15.0
_PARENT = "LITSEQ_COMPARE_PARENT"


def run_process(
    module: str,
    arguments: Sequence[str],
    directory: Path,
    watch: Callable[[str, float], None],
    threads: int | None = None,
    stopping: threading.Event | None = None,
) -> str | None:
    """Run a module of ours, its output into the log of the directory.

    Args:
        module: Its dotted name.
        arguments: Its arguments.
        directory: Where log and progress are.
        watch: Told the stage and how much of it is done, several times a second.
        threads: How many threads torch may use there, where the environment does not say. None: its own choice.
        stopping: Ends the process when it is set.

    Returns:
        None when it went well, else one line that says why not.
    """
    (directory / PROGRESS).unlink(missing_ok=True)
    environment = (
        {"GOMP_SPINCOUNT": "1000"} | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}) | os.environ
    ) | {_PARENT: str(os.getpid())}
    with (directory / LOG).open("a", encoding="utf-8") as log:
        # In a session of its own: a Ctrl-C is ours to pass on, or it would be handled twice.
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
        try:
            while process.poll() is None and not (stopping is not None and stopping.is_set()):
                progress = read_json(directory / PROGRESS)
                if progress is not None:
                    watch(progress["stage"], progress["fraction"])
                time.sleep(_LOOK)
        finally:
            _end(process)
    return None if process.returncode == 0 else _reason(process.returncode, directory)


def end_with_parent() -> None:
    """Let this process end when the one that `run_process` was called in has been killed.

    It would go on otherwise, in the directory in which the next `litseq compare` begins the same run again.
    """
    if (parent := os.environ.get(_PARENT)) is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(1)  # as hard as the kill: every file is whole or not there


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(code: int, directory: Path) -> str:
    failed = read_json(directory / FAILED)
    if failed is not None:
        reason: str = failed["reason"]
        return reason
    if code == -signal.SIGKILL:
        return "killed (signal 9): most likely the machine ran out of memory"
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    lines = (directory / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"exit code {code}: {last[:300]}"
