"""The comparison from its configuration to its report."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from litseq.compare.config import Comparison, check
from litseq.compare.files import BUNDLE, FAILED, PLAN, PROMPTS, RESULT, read_json, write_json
from litseq.compare.planning import RUNS, TOKENIZER, ArmPlan, lay_out, make_plans, run_directory
from litseq.compare.processes import run_process
from litseq.compare.report import write_report
from litseq.compare.results import collect
from litseq.errors import LitseqError, UsageError

_ANSWER = 64
"""Tokens of a timed answer, where the comparison does not say; a badly trained model never ends one."""
SPEED, OVERVIEW = "speed.json", "comparison.json"
_STAGES = {"training": (0.0, 0.85), "exporting": (0.85, 0.03), "generating": (0.88, 0.12)}
"""Where each stage of a run begins and how much of the run it is, roughly."""


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
    _claim(out, force)
    write_json(out / OVERVIEW, asdict(comparison))
    arms, plans = make_plans(comparison, out)
    lay_out(plans, out)
    for arm in arms:
        change = f", {arm.size.changes} to match" if arm.size.changes else ""
        console.print(f"{arm.label}: {arm.size.parameters:,} parameters{change}", highlight=False)
    failed = _run_all(plans, out, console)
    if len(failed) == len(plans):
        raise LitseqError(f"no run came to its end; the first one: {next(iter(failed.values()))}")
    _time(comparison, arms, plans, out, console)
    results = collect(comparison, arms, plans, failed, out)
    write_report(results, out)
    return results


def _claim(out: Path, force: bool) -> None:
    """Make the directory, or see that it is a comparison's."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} exists and is no directory; choose another out")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()) and not (out / OVERVIEW).is_file():
        raise UsageError(
            f"{out} holds something else than a comparison, so nothing is written there; choose another out"
        )
    if force:
        for name in (RUNS, TOKENIZER, SPEED, OVERVIEW):
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False), console=console
    ) as bars:
        yield bars


def _run_all(plans: list[dict[str, Any]], out: Path, console: Console) -> dict[tuple[str, int], str]:
    """Run what has no result yet; why the others failed, by arm and seed."""
    failed = {}
    left = [plan for plan in plans if not (run_directory(out, plan["arm"], plan["seed"]) / RESULT).is_file()]
    if len(left) < len(plans):
        console.print(f"{len(plans) - len(left)} of {len(plans)} runs are finished already")
    with _bars(console) as bars:
        everything = bars.add_task("all runs", total=max(len(left), 1), completed=0 if left else 1)
        for number, plan in enumerate(left):
            directory = run_directory(out, plan["arm"], plan["seed"])
            name = f"{plan['arm']}, seed {plan['seed']}"
            task = bars.add_task(name, total=1.0)
            start = time.perf_counter()

            def watch(stage: str, fraction: float, number: int = number, task: Any = task, name: str = name) -> None:
                begin, share = _STAGES.get(stage, (0.0, 0.0))
                done = min(begin + share * fraction, 1.0)
                bars.update(task, completed=done, description=f"{name}: {stage}")
                bars.update(everything, completed=number + done)

            reason = run_process("litseq.compare.worker", [str(directory)], directory, watch)
            bars.remove_task(task)
            bars.update(everything, completed=number + 1)
            if reason is None:
                (directory / FAILED).unlink(missing_ok=True)
                console.print(f"{name}: done in {time.perf_counter() - start:,.0f} s", highlight=False)
            else:
                failed[plan["arm"], plan["seed"]] = reason
                write_json(directory / FAILED, {"reason": reason})
                console.print(f"{name}: failed: {reason}", highlight=False, markup=False, soft_wrap=True)
    return failed


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
    plan = {
        "bundles": {name: str(directory / BUNDLE) for name, directory in finished.items()},
        "prompts": {name: read_json(directory / PROMPTS)[: speed.sentences] for name, directory in finished.items()},
        "options": {"max_new_tokens": _ANSWER} | comparison.generation,
        **{name: getattr(speed, name) for name in ("batches", "lengths", "repeats", "threads")},
    }
    work = out / "timing"
    work.mkdir(exist_ok=True)
    if read_json(work / PLAN) == plan and (out / SPEED).is_file():
        return
    (out / SPEED).unlink(missing_ok=True)
    write_json(work / PLAN, plan)
    with _bars(console) as bars:
        task = bars.add_task("timing the bundles", total=1.0)
        arguments = [str(work / PLAN), str(work / SPEED)]
        reason = run_process("litseq.compare.speed", arguments, work, lambda _, done: bars.update(task, completed=done))
    if reason is None:
        (work / SPEED).replace(out / SPEED)
    else:
        console.print(f"timing failed: {reason}", highlight=False, markup=False, soft_wrap=True)
