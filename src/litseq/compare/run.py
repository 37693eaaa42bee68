"""The comparison from its configuration to its report."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from litseq._lock import lock
from litseq.compare.config import Comparison, check
from litseq.compare.files import BUNDLE, PLAN, PROMPTS, RESULT, read_json, write_json
from litseq.compare.planning import RUNS, TOKENIZER, ArmPlan, lay_out, make_plans, run_directory
from litseq.compare.pool import progress_bars, run_all
from litseq.compare.preflight import preflight
from litseq.compare.processes import run_process
from litseq.compare.report import write_report
from litseq.compare.results import collect
from litseq.errors import LitseqError, UsageError

_ANSWER = 64
"""Tokens of a timed answer, where the comparison does not say; a badly trained model never ends one."""
SPEED, OVERVIEW = "speed.json", "comparison.json"


def run_comparison(comparison: Comparison, *, force: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Run what is left of a comparison, and write its report.

    Finished runs are left alone, an interrupted one goes on from its last checkpoint, a failed one is tried again.

    Args:
        comparison: What to compare.
        force: Throw away what `out` holds of another configuration.
        console: Where progress goes; None is standard error.

    Returns:
        What results.json holds; the runs that failed are under `failed`.

    Raises:
        UsageError: The comparison cannot be run as it is.
        LitseqError: No run came to its end.
    """
    console = console or Console(stderr=True)
    out = Path(comparison.out)
    check(comparison)
    _claim(out)
    with _locked(out):
        return _run(comparison, out, force, console)


def _run(comparison: Comparison, out: Path, force: bool, console: Console) -> dict[str, Any]:
    preflight(comparison)
    if force:
        _throw_away(comparison, out)
    if not (out / OVERVIEW).is_file():  # before anything else is there: it says whose directory this is
        write_json(out / OVERVIEW, asdict(comparison))
    arms, plans = make_plans(comparison, out)
    lay_out(plans, out)
    write_json(out / OVERVIEW, asdict(comparison))
    for arm in arms:
        change = f", {arm.size.changes} to match" if arm.size.changes else ""
        console.print(f"{arm.label}: {arm.size.parameters:,} parameters{change}", highlight=False)
    failed = run_all(plans, out, comparison.jobs, console)
    if len(failed) == len(plans):
        raise LitseqError(f"no run came to its end; the first one: {next(iter(failed.values()))}")
    _time(comparison, arms, plans, out, console)
    results = collect(comparison, arms, plans, failed, out)
    write_report(results, out)
    return results


def _claim(out: Path) -> None:
    """Make the directory, or see that it is a comparison's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} exists and is no directory; choose another out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made ({error.strerror}); choose another out") from error
    if any(out.iterdir()) and not (out / OVERVIEW).is_file():
        raise UsageError(
            f"{out} holds something else than a comparison, so nothing is written there; choose another out"
        )


def _throw_away(comparison: Comparison, out: Path) -> None:
    """Remove the runs of `out`, but only for a comparison that can run in their place."""
    with TemporaryDirectory(dir=out, prefix=".plan-") as scratch:
        make_plans(comparison, Path(scratch))
    for name in (RUNS, TOKENIZER, SPEED):
        path = out / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keep the directory from a second comparison, which would throw away or write over what this one makes."""
    directory = os.open(out, os.O_RDONLY)
    try:
        lock(directory, out, "wait for it, or choose another out")
        yield
    finally:
        os.close(directory)


def _time(
    comparison: Comparison, arms: list[ArmPlan], plans: list[dict[str, Any]], out: Path, console: Console
) -> None:
    """Time one bundle of each arm, all in one process; its speed does not depend on the seed."""
    finished: dict[str, Path] = {}
    for plan in plans:
        directory = run_directory(out, plan["arm"], plan["seed"])
        if (directory / RESULT).is_file():
            finished.setdefault(plan["arm"], directory)
    speed = comparison.speed
    prompts = {name: read_json(directory / PROMPTS) for name, directory in finished.items()}
    plan = {
        "bundles": {name: str(directory / BUNDLE) for name, directory in finished.items()},
        "prompts": _same_items(prompts, speed.sentences),
        "options": {"max_new_tokens": _ANSWER} | comparison.generation,
        **{name: getattr(speed, name) for name in ("batches", "lengths", "repeats", "threads")},
    }
    work = out / "timing"
    work.mkdir(exist_ok=True)
    if read_json(work / PLAN) == plan and (out / SPEED).is_file():
        return
    (out / SPEED).unlink(missing_ok=True)
    write_json(work / PLAN, plan)
    with progress_bars(console) as bars:
        task = bars.add_task("timing the bundles", total=1.0)
        arguments = [str(work / PLAN), str(work / SPEED)]
        reason = run_process("litseq.compare.speed", arguments, work, lambda _, done: bars.update(task, completed=done))
    if reason is None:
        (work / SPEED).replace(out / SPEED)
    else:
        console.print(f"timing failed: {reason}", highlight=False, markup=False, soft_wrap=True)


def _same_items(prompts: dict[str, Any], count: int) -> dict[str, list[list[int]]]:
    """What is timed: the items that leave every arm room for an answer, so that all arms answer the same ones.

    Args:
        prompts: By arm, the prompts by item; a list, as runs of an older version left it, is of the first items.
        count: Items at most.
    """
    by_item = {
        arm: found if isinstance(found, dict) else {str(i): ids for i, ids in enumerate(found)}
        for arm, found in prompts.items()
    }
    shared = [item for item in next(iter(by_item.values())) if all(item in found for found in by_item.values())]
    if not shared:
        return {arm: list(found.values())[:1] for arm, found in by_item.items()}
    chosen = shared[:: max(1, len(shared) // count)][:count]
    return {arm: [found[item] for item in chosen] for arm, found in by_item.items()}
