"""Time one case: every system in turn, again and again, and the medians."""

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cases import Case
from processes import Unavailable, Worker
from shapes import SHAPES

CHECKED_TOKENS = 32
SLOWER_VARIANT = 0.93  # after a round, settings of a system that are slower than this times its best leave
MUCH_SLOWER = 0.6  # after two rounds, so do systems slower than this times the best peer
SHORT = 0.05  # seconds; rounds of a case that is over sooner count several calls


def prompts_of(case: Case) -> list[list[int]]:
    """The prompts of a case, the same for everybody."""
    chance = random.Random(f"{case.batch}-{case.prompt}")
    return [[chance.randrange(3, SHAPES[case.shape].vocab) for _ in range(case.prompt)] for _ in range(case.batch)]


def reference_file(case: Case, directory: Path) -> Path:
    """Where transformers' fp32 tokens for a case are kept."""
    return directory / f"reference-b{case.batch}-p{case.prompt}-n{case.new}-k{case.beams}.json"


def write_reference(case: Case, directory: Path, transformers: Worker) -> None:
    """Have transformers generate what the others are compared with."""
    # What a beam search finds depends on the whole length; greedy tokens do not.
    count = case.new if case.beams > 1 else min(case.new, CHECKED_TOKENS)
    _, tokens = transformers.call("generate", prompts=prompts_of(case), count=count, beams=case.beams)
    reference_file(case, directory).write_text(json.dumps(tokens))


def measure(
    case: Case, workers: list[Worker], repeats: int, directory: Path, probe: Callable[[], float] | None = None
) -> dict[str, Any]:
    """Speeds of all systems that can run the case.

    Args:
        case: The case.
        workers: The systems.
        repeats: Rounds.
        directory: Where the models of the case's shape lie.
        probe: Called in every round, beside the systems.

    Returns:
        `systems`: name -> tokens a second (median and every repeat), milliseconds to the first token, rows that begin
        as transformers' fp32 ones do; `failed`: name -> reason; `probes`: what `probe` gave.
    """
    prompts = prompts_of(case)
    timer = _Timer(case, prompts)
    expected = json.loads(reference_file(case, directory).read_text())
    speeds: dict[str, list[float]] = {}
    firsts: dict[str, list[float]] = {}
    equal: dict[str, int] = {}
    failed: dict[str, str] = {}
    live = list(workers)
    for worker in workers:
        try:
            tokens = timer.warm(worker)
        except Unavailable as error:
            failed[worker.name] = str(error)
            live.remove(worker)
            continue
        equal[worker.name] = sum(
            a[:CHECKED_TOKENS] == b[:CHECKED_TOKENS] for a, b in zip(tokens, expected, strict=True)
        )
        speeds[worker.name], firsts[worker.name] = [], []
    probes: list[float] = []
    for turn in range(repeats):
        if probe is not None:
            probes.append(probe())
        for worker in live:
            first, speed = timer.time(worker)
            firsts[worker.name].append(first)
            speeds[worker.name].append(speed)
        live = _still_of_interest(live, speeds, turn)
    systems = {
        worker.name: {
            "system": worker.system,
            "tokens_per_second": statistics.median(speeds[worker.name]),
            "repeats": speeds[worker.name],
            "first_milliseconds": 1e3 * statistics.median(firsts[worker.name]),
            "rows_equal": equal[worker.name],
            "load_seconds": worker.load_seconds,
            "peak_bytes": worker.memory,
        }
        for worker in workers
        if speeds.get(worker.name)
    }
    return {"systems": systems, "failed": failed, "rows": len(prompts), "probes": probes}


class _Timer:
    """How one system is timed in one case."""

    def __init__(self, case: Case, prompts: list[list[int]]) -> None:
        self.case, self.prompts = case, prompts
        self.calls: dict[str, int] = {}

    def warm(self, worker: Worker) -> list[list[int]]:
        """Generate once for the tokens, and see how long that takes."""
        seconds, tokens = self._call(worker, self.case.new)
        if seconds < 4 * SHORT:
            seconds = min(seconds, self._call(worker, self.case.new)[0])
        self.calls[worker.name] = max(1, min(8, round(SHORT / max(seconds, 1e-4))))
        return tokens

    def time(self, worker: Worker) -> tuple[float, float]:
        """Seconds to the first token, and tokens a second."""
        case = self.case
        first, speed = [], []
        for _ in range(self.calls[worker.name]):
            first.append(self._call(worker, 1)[0])
            if case.measure == "first":
                speed.append(case.batch * case.prompt / first[-1])
                continue
            whole = self._call(worker, case.new)[0]
            if case.measure == "whole":
                speed.append(case.batch * case.new / whole)
            elif whole > 1.2 * first[-1]:  # else something else had the machine while the first token was waited for
                speed.append(case.batch * (case.new - 1) / (whole - first[-1]))
        if not speed:
            return self.time(worker)
        return statistics.median(first), statistics.median(speed)

    def _call(self, worker: Worker, count: int) -> tuple[float, list[list[int]]]:
        return worker.call("generate", prompts=self.prompts, count=count, beams=self.case.beams)


def _still_of_interest(live: list[Worker], speeds: dict[str, list[float]], turn: int) -> list[Worker]:
    speed = {worker.name: statistics.median(speeds[worker.name]) for worker in live}
    best_setting: dict[str, float] = {}
    for worker in live:
        best_setting[worker.system] = max(best_setting.get(worker.system, 0.0), speed[worker.name])
    peers = [worker for worker in live if worker.system != "litseq"]
    best_peer = max((speed[worker.name] for worker in peers), default=0.0)

    def stays(worker: Worker) -> bool:
        as_good = speed[worker.name] >= SLOWER_VARIANT * best_setting[worker.system]
        quick_enough = worker.system == "litseq" or turn < 1 or speed[worker.name] >= MUCH_SLOWER * best_peer
        return as_good and quick_enough

    return [worker for worker in live if stays(worker)]
