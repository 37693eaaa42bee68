"""The files of a run: whole or not there, so that whoever stops in between leaves nothing half-written."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

PLAN, PROGRESS, CURVE, RESULT, FAILED, LOG = (
    "plan.json",
    "progress.json",
    "curve.json",
    "result.json",
    "failed.json",
    "log.txt",
)
CHECKPOINTS, BUNDLE, OUTPUTS, PROMPTS = "checkpoints", "bundle", "outputs.json", "prompts.json"


def write_json(path: Path, value: Any) -> None:
    """Write beside and rename."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    beside.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def read_json(path: Path) -> Any:
    """What the file holds, None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_progress(directory: Path, stage: str, fraction: float) -> None:
    """Say how far a run has come; the process that watches reads it."""
    write_json(directory / PROGRESS, {"stage": stage, "fraction": round(fraction, 4)})


def peak_bytes() -> int:
    """The most memory that this process has had resident.

    Linux hands a parent's `ru_maxrss` on to the programs it starts, so there the kernel's own mark is read.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
