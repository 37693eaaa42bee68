"""The runs of a comparison as processes, one or several at a time, with bars."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from litseq.compare.files import FAILED, RESULT, write_json
from litseq.compare.planning import run_directory
from litseq.compare.processes import run_process
from litseq.runtime.sessions import default_threads

_STAGES = {"training": (0.0, 0.85), "exporting": (0.85, 0.03), "generating": (0.88, 0.12)}
"""Where each stage of a run begins and how much of the run it is, roughly."""


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """Bars with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False), console=console
    ) as bars:
        yield bars


def run_all(plans: list[dict[str, Any]], out: Path, jobs: int, console: Console) -> dict[tuple[str, int], str]:
    """Run what has no result yet, `jobs` runs at a time, in order.

    Returns:
        Why the others failed, by arm and seed.
    """
    left = [plan for plan in plans if not (run_directory(out, plan["arm"], plan["seed"]) / RESULT).is_file()]
    if len(left) < len(plans):
        console.print(f"{len(plans) - len(left)} of {len(plans)} runs are finished already")
    reasons: dict[int, str | None] = {}
    with progress_bars(console) as bars, ThreadPoolExecutor(jobs) as pool:
        runner = _Runner(bars, out, len(left), None if jobs == 1 else max(1, default_threads() // jobs))
        futures = {pool.submit(runner.run, number, plan): number for number, plan in enumerate(left)}
        try:
            for future in as_completed(futures):
                reasons[futures[future]] = future.result()
        except BaseException:  # Ctrl-C above all; the processes end before it goes on
            runner.stopping.set()
            pool.shutdown(cancel_futures=True)
            raise
    return {
        (plan["arm"], plan["seed"]): reason
        for number, plan in enumerate(left)
        if (reason := reasons[number]) is not None
    }


class _Runner:
    """Runs them, several at the same time, beside one set of bars, until it is told to stop."""

    def __init__(self, bars: Progress, out: Path, count: int, threads: int | None) -> None:
        self.stopping = threading.Event()
        self._bars, self._out, self._threads = bars, out, threads
        self._everything = bars.add_task("all runs", total=max(count, 1), completed=0 if count else 1)
        self._done = [0.0] * count

    def run(self, number: int, plan: dict[str, Any]) -> str | None:
        """Run one to its end; why it failed."""
        bars, directory = self._bars, run_directory(self._out, plan["arm"], plan["seed"])
        name = f"{plan['arm']}, seed {plan['seed']}"
        task = bars.add_task(name, total=1.0)
        start = time.perf_counter()

        def show(done: float, description: str | None = None) -> None:
            self._done[number] = done
            bars.update(task, completed=done, description=description)
            bars.update(self._everything, completed=sum(self._done))

        def watch(stage: str, fraction: float) -> None:
            begin, share = _STAGES.get(stage, (0.0, 0.0))
            show(min(begin + share * fraction, 1.0), f"{name}: {stage}")

        arguments = [str(directory)]
        reason = run_process("litseq.compare.worker", arguments, directory, watch, self._threads, self.stopping)
        show(1.0)
        bars.remove_task(task)
        if reason is None:
            (directory / FAILED).unlink(missing_ok=True)
            bars.console.print(f"{name}: done in {time.perf_counter() - start:,.0f} s", highlight=False)
        elif not self.stopping.is_set():
            write_json(directory / FAILED, {"reason": reason})
            bars.console.print(f"{name}: failed: {reason}", highlight=False, markup=False, soft_wrap=True)
        return reason
