"""The cases that are more than a batch: arrivals, chats, prompt lookup, files."""

import random
import statistics
from pathlib import Path
from typing import Any

from cases import Case
from processes import Unavailable, Worker
from shapes import SHAPES, VOCAB, successor

REQUESTS, ROWS = 200, 32
LOADS = {"busy": 1.6, "overload": 4.0}
"""Arrivals, as a multiple of what fixed batches can serve."""
LIMIT = 160  # tokens of a translated line at most


def run_scenario(case: Case, workers: list[Worker], repeats: int, directory: Path, quick: bool) -> dict[str, Any]:
    """Measure one case; what comes back has `systems` and `ratio`, as `measure` and the report want them."""
    scenario = {"serve": _serve, "chat": _chat, "lookup": _lookup, "file": _file}[case.measure]
    return scenario(case, workers, repeats, directory, quick)


def _serve(case: Case, workers: list[Worker], repeats: int, directory: Path, quick: bool) -> dict[str, Any]:
    """Latency under arrivals somewhat faster than fixed batches can serve; throughput where all are overloaded.

    Whoever keeps up with the arrivals has their throughput and no other, so it is measured at a rate that nobody keeps up
    with.
    """
    litseq = workers[0]
    requests = 24 if quick else REQUESTS
    common = {"requests": requests, "seed": 1, "vocab": SHAPES[case.shape].vocab}
    # All at once through fixed batches: what they can serve.
    _, trial = litseq.call("serve", rate=1e6, rows=8, fixed=True, **common | {"requests": min(requests, 32)})
    served = min(requests, 32) / trial["seconds"]
    middle: dict[str, dict[str, dict[str, Any]]] = {}
    for load, factor in LOADS.items():
        found: dict[str, list[dict[str, Any]]] = {"continuous": [], "fixed batches of 8": []}
        for _ in range(repeats):
            for name, rows, fixed in (("continuous", ROWS, False), ("fixed batches of 8", 8, True)):
                found[name].append(litseq.call("serve", rate=factor * served, rows=rows, fixed=fixed, **common)[1])
        middle[load] = {name: sorted(runs, key=lambda run: run["p95"])[len(runs) // 2] for name, runs in found.items()}
    notes, ratios = [], {}
    for load, runs in middle.items():
        ours, theirs = runs["continuous"], runs["fixed batches of 8"]
        ratios[load] = ours["p95"] / theirs["p95"]
        notes.append(
            f"{LOADS[load] * served:.2f} requests a second: {ours['tokens_per_second'] / theirs['tokens_per_second']:.2f} x the "
            f"throughput, p95 latency {ours['p95']:.1f} s against {theirs['p95']:.1f} s, {ratios[load]:.2f} x"
        )
    note = f"{'; '.join(notes)} (aim: at most 0.6 x); {requests} requests, at most {ROWS} rows"
    overload = {name: {"tokens_per_second": run["tokens_per_second"]} | run for name, run in middle["overload"].items()}
    return _result(overload, "continuous", "fixed batches of 8", note) | {
        "latency_ratio": ratios["busy"],
        "loads": middle,
    }


def _chat(case: Case, workers: list[Worker], repeats: int, directory: Path, quick: bool) -> dict[str, Any]:
    """Seconds to the first token at the last of 10 turns."""
    turns = 3 if quick else 10
    common = {"turns": turns, "question": 48, "answer": 40, "seed": 3, "vocab": SHAPES[case.shape].vocab}
    last: dict[bool, list[float]] = {True: [], False: []}
    tokens = {}
    for _ in range(repeats):
        for reuse in (True, False):
            _, run = workers[0].call("chat", reuse=reuse, **common)
            last[reuse].append(run["first_token_seconds"][-1])
            tokens[reuse] = run["tokens"]
    with_, without = statistics.median(last[True]), statistics.median(last[False])
    same = "equal" if tokens[True] == tokens[False] else "NOT equal"
    note = f"first token at turn {turns} after {1e3 * with_:.0f} ms against {1e3 * without:.0f} ms: {with_ / without:.2f} x "
    note += f"(aim: at most 0.25 x); all tokens {same}"
    systems = {
        name: {"tokens_per_second": 1 / seconds, "first_milliseconds": 1e3 * seconds}
        for name, seconds in (("with reuse", with_), ("without reuse", without))
    }
    return _result(systems, "with reuse", "without reuse", note)


def _lookup(case: Case, workers: list[Worker], repeats: int, directory: Path, quick: bool) -> dict[str, Any]:
    """Greedy tokens a second with prompt lookup as it is by default, against none."""
    prompt = lookup_prompt(case.prompt, copying=case.name.endswith("-copying") and "not" not in case.name)
    count = 48 if quick else case.new
    speeds: dict[bool, list[float]] = {True: [], False: []}
    tokens = {}
    for turn in range(repeats + 1):
        for on in (True, False):
            seconds, tokens[on] = workers[0].call("lookup", prompt=prompt, count=count, use=None if on else False)
            first, _ = workers[0].call("lookup", prompt=prompt, count=1, use=False)
            if turn:
                speeds[on].append((count - 1) / (seconds - first))
    same = "equal" if tokens[True] == tokens[False] else "NOT equal"
    note = f"all {count} tokens {same}"
    systems = {
        name: {"tokens_per_second": statistics.median(speeds[on]), "repeats": speeds[on]}
        for name, on in (("by default", True), ("without lookup", False))
    }
    # Of pairs that were measured one behind the other: the speed of a shared machine may change between the rounds.
    ratio = statistics.median(a / b for a, b in zip(speeds[True], speeds[False], strict=True))
    return _result(systems, "by default", "without lookup", note) | {"ratio": ratio}


def lookup_prompt(length: int, *, copying: bool) -> list[int]:
    """A prompt for a `chain` model, whose output is then known: the chain behind the prompt's last token.

    Copying: the chain's next tokens lie in the prompt, in pieces of 8 to 24 tokens in another order, so that a draft is
    right until its piece ends. Not copying: nothing of what follows occurs in the prompt.
    """
    chance = random.Random(length)
    start = 4242
    if not copying:
        path = _chain(start, length + 400)
        return [*chance.sample(sorted(set(range(3, VOCAB)) - set(path)), length - 1), start]
    path, pieces = _chain(start, length - 1), []
    while path:
        cut = chance.randint(8, 24)
        pieces.append(path[:cut])
        path = path[cut:]
    chance.shuffle(pieces)
    return [*(token for piece in pieces for token in piece), start]


def _chain(start: int, length: int) -> list[int]:
    tokens = []
    for _ in range(length):
        tokens.append(start)
        start = successor(start)
    return tokens


def _file(case: Case, workers: list[Worker], repeats: int, directory: Path, quick: bool) -> dict[str, Any]:
    """A file of 10,000 lines in, a file of lines out, tokenizers included; the model nearly copies its source."""
    source = directory / "corpus.txt"
    if quick:
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:300]
        source = directory / "corpus-quick.txt"
        source.write_text("".join(lines), encoding="utf-8")
    count = len(source.read_text(encoding="utf-8").splitlines())
    wanted: list[str] = []  # what the first system writes
    tokenizer = str(directory / "litseq-fp32" / "tokenizer.json")
    speeds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    systems: dict[str, dict[str, Any]] = {}
    for _ in range(repeats):
        for worker in workers:
            target = directory / f"out-{worker.system}.txt"
            arguments = {"source": str(source), "target": str(target), "limit": LIMIT}
            arguments |= {} if worker.system == "litseq" else {"tokenizer": tokenizer}
            try:
                _, run = worker.call("file", **arguments)
            except Unavailable as error:
                speeds.pop(worker.name)
                systems[worker.name] = {"failed": str(error)}
                continue
            speeds[worker.name].append(count / run["seconds"])
            found = target.read_text(encoding="utf-8").splitlines()
            wanted = wanted or found
            systems[worker.name] = run | {"same": sum(a == b for a, b in zip(found, wanted, strict=False))}
    failed = {name: values.pop("failed") for name, values in systems.items() if "failed" in values}
    for name, values in speeds.items():
        systems[name] |= {"tokens_per_second": systems[name]["tokens"] / systems[name]["seconds"]}
        systems[name] |= {"lines_per_second": statistics.median(values), "repeats": values}
    systems = {name: values for name, values in systems.items() if name not in failed}
    ours, best = (
        max(names, key=lambda name: systems[name]["lines_per_second"], default=None)
        for names in (
            [n for n in systems if n.startswith("litseq")],
            [n for n in systems if not n.startswith("litseq")],
        )
    )
    ratio = systems[ours]["lines_per_second"] / systems[best]["lines_per_second"] if ours and best else None
    shown = ", ".join(
        f"{n} {v['lines_per_second']:.1f} lines/s ({v['same']} lines the same)" for n, v in systems.items()
    )
    note = f"{count} lines: {shown}"
    return {"systems": systems, "failed": failed, "litseq": ours, "best_peer": best, "ratio": ratio, "note": note}


def _result(systems: dict[str, dict[str, Any]], ours: str, other: str, note: str) -> dict[str, Any]:
    ratio = systems[ours]["tokens_per_second"] / systems[other]["tokens_per_second"]
    return {"systems": systems, "failed": {}, "litseq": ours, "best_peer": other, "ratio": ratio, "note": note}
