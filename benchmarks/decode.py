"""Decode speed beside transformers and CTranslate2: same weights, same prompts, same number of tokens, one run.

    python benchmarks/decode.py [--models llama base] [--batches 1 8 32] [--repeats 5] [--threads 2] [--out docs]

Each system lives in a process of its own, loaded once; they take turns, case by case, so that what else the machine
does hits all of them. A case is timed for 1 and for n new tokens:
decode tokens/s = batch * (n - 1) / (T(n) - T(1)), prompt time = T(1). Reported are medians over the repeats.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peers import PEERS, installed

from models import SHAPES, VOCAB, Shape, prepare

CHECKED_TOKENS = 32


def serve(name: str, directory: Path, threads: int, pipe: Connection) -> None:
    """A system's process: generates what it is asked and says how long it took."""
    generate = PEERS[name](directory, threads)
    pipe.send("ready")
    while (case := pipe.recv()) is not None:
        prompts, count = case
        begin = time.perf_counter()
        tokens = generate(prompts, count)
        pipe.send((time.perf_counter() - begin, tokens))


class Peer:
    """A system in a process of its own."""

    def __init__(self, name: str, directory: Path, threads: int) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, directory, threads, theirs), daemon=True)
        self.process.start()
        assert self.pipe.recv() == "ready"

    def run(self, prompts: list[list[int]], count: int) -> tuple[float, list[list[int]]]:
        self.pipe.send((prompts, count))
        seconds, tokens = self.pipe.recv()
        return float(seconds), tokens

    def stop(self) -> None:
        self.pipe.send(None)
        self.process.join()


def measure(shape: Shape, peers: list[Peer], batch: int, repeats: int) -> dict[str, Any]:
    """One case: medians of every system, and how many rows begin like litseq's."""
    generator = random.Random(batch)
    prompts = [[generator.randrange(3, VOCAB) for _ in range(shape.prompt)] for _ in range(batch)]
    tokens = {peer.name: peer.run(prompts, shape.new_tokens)[1] for peer in peers}  # warm-up
    times: dict[str, list[tuple[float, float]]] = {peer.name: [] for peer in peers}
    for _ in range(repeats):
        for peer in peers:
            first, _ = peer.run(prompts, 1)
            whole, _ = peer.run(prompts, shape.new_tokens)
            times[peer.name].append((first, whole))
    systems = {}
    for peer in peers:
        steps = [whole - first for first, whole in times[peer.name]]
        systems[peer.name] = {
            "decode_tokens_per_second": batch * (shape.new_tokens - 1) / statistics.median(steps),
            "slowest_and_fastest": [batch * (shape.new_tokens - 1) / f(steps) for f in (max, min)],
            "prompt_milliseconds": 1e3 * statistics.median(first for first, _ in times[peer.name]),
            "rows_equal_to_litseq": sum(
                ours[:CHECKED_TOKENS] == theirs[:CHECKED_TOKENS]
                for ours, theirs in zip(tokens["litseq"], tokens[peer.name], strict=True)
            ),
        }
    return {"model": shape.name, "batch": batch, "systems": systems}


def table(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    names = results["systems"]
    lines = [
        "# Decode speed",
        "",
        f"fp32, greedy, {results['threads']} threads, prompts of {SHAPES['llama'].prompt} tokens, "
        f"{SHAPES['llama'].new_tokens} new ones, medians of {results['repeats']} interleaved repeats. "
        f"{results['cpu']}. " + ", ".join(f"{n} {v}" for n, v in results["versions"].items()) + f". {results['date']}.",
        "",
        f"Made by `{results['command']}`.",
        "",
    ]
    for name in dict.fromkeys(case["model"] for case in results["cases"]):
        lines += [f"## {SHAPES[name].description}", "", "| batch | " + " | ".join(f"{n} tok/s" for n in names)]
        lines[-1] += " | " + " | ".join(f"litseq / {n}" for n in names[1:]) + " | prompt ms | rows equal |"
        lines.append("|" + "---:|" * (2 * len(names) + 2))
        for case in (c for c in results["cases"] if c["model"] == name):
            systems = case["systems"]
            speed = [systems[n]["decode_tokens_per_second"] for n in names]
            cells = [str(case["batch"]), *(f"{s:,.0f}" for s in speed), *(f"{speed[0] / s:.2f}x" for s in speed[1:])]
            cells.append(" / ".join(f"{systems[n]['prompt_milliseconds']:.0f}" for n in names))
            cells.append(
                " / ".join(f"{systems[n]['rows_equal_to_litseq']}" for n in names[1:]) + f" of {case['batch']}"
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def cpu_name() -> str:
    """The processor, as Linux calls it, and how many of it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
        model = next(line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} x {model}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "litseq-benchmarks")
    parser.add_argument("--out", type=Path, help="directory for benchmark-decode.md and benchmark-decode.json")
    args = parser.parse_args()

    names = [name for name in PEERS if installed(name)]
    cases = []
    for model in args.models:
        shape, directory = SHAPES[model], args.work / model
        prepare(shape, directory)
        peers = [Peer(name, directory, args.threads) for name in names]
        for batch in args.batches:
            cases.append(measure(shape, peers, batch, args.repeats))
            speeds = {n: round(s["decode_tokens_per_second"], 1) for n, s in cases[-1]["systems"].items()}
            print(model, "batch", batch, speeds, flush=True)
        for peer in peers:
            peer.stop()
    command = f"python benchmarks/decode.py --repeats {args.repeats} --threads {args.threads}"
    results = {
        "systems": names, "threads": args.threads, "repeats": args.repeats, "cpu": cpu_name(), "command": command,
        "versions": {n: version(n) for n in (*names, "onnxruntime", "torch")}, "date": time.strftime("%Y-%m-%d"),
        "cases": cases,
    }  # fmt: skip
    print(table(results))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "benchmark-decode.json").write_text(json.dumps(results, indent=1) + "\n")
        (args.out / "benchmark-decode.md").write_text(table(results))


if __name__ == "__main__":
    main()
