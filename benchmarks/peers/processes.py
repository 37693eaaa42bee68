"""Systems in processes of their own, of which one runs while the others are stopped."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from systems import SYSTEMS

HERE = Path(__file__).parent


class Unavailable(Exception):
    """A system cannot be measured here; the message says why."""


def python_of(environment: str, environments: Path) -> Path:
    """The interpreter of an environment.

    Raises:
        Unavailable: it has not been made.
    """
    path = Path(sys.executable) if environment == "litseq" else environments / environment / "bin" / "python"
    if not path.exists():
        raise Unavailable(f"{path} is missing: run benchmarks/peers/setup.sh")
    return path


def clean_environment() -> dict[str, str]:
    """The variables of this process without what would slow a numerical library down or choose its kernels."""
    dropped = ("OMP_", "OPENBLAS_", "MKL_", "KMP_", "CT2_")
    return {k: v for k, v in os.environ.items() if not k.startswith(dropped)}


class Worker:
    """One setting of one system, loaded with one model; stopped (SIGSTOP) whenever it is not its turn."""

    def __init__(
        self, system: str, variant: str, directory: Path, precision: str, threads: int, environments: Path, log: Path
    ) -> None:
        entry = SYSTEMS[system]
        self.system, self.variant = system, variant
        python = python_of(entry.environment, environments)
        command = [str(python), str(HERE / "worker.py"), entry.module, str(directory), precision, str(threads), variant]
        self._log = log.open("a")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=clean_environment() | entry.variants[variant],
        )  # fmt: skip
        ready = self._read()
        self.versions: dict[str, str] = ready["ready"]
        self.load_seconds: float = ready["seconds"]
        self._process.send_signal(signal.SIGSTOP)

    @property
    def name(self) -> str:
        """The system, with its setting where it has several."""
        return f"{self.system} ({self.variant})" if self.variant else self.system

    def call(self, method: str, **arguments: object) -> tuple[float, Any]:
        """Seconds that a method took inside the process, and what it gave.

        Raises:
            Unavailable: it failed.
        """
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps({"call": method, "args": arguments}) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        self._process.send_signal(signal.SIGSTOP)
        return float(reply["seconds"]), reply["result"]

    @property
    def memory(self) -> int:
        """Its peak of resident memory, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": f"the process ended with code {self._process.wait()}"}
        if "error" in reply:
            self.stop()
            raise Unavailable(reply["error"])
        return reply
