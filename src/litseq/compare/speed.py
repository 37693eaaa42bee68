"""How fast the bundles are, and how much memory they take: `python -m litseq.compare.speed PLAN OUT`, without torch.

The arms take turns within every repeat, so that what else the machine does meets all of them; medians are reported. Memory
is measured in a process a bundle (`python -m litseq.compare.speed --memory BUNDLE PROMPTS`).
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from litseq.compare.files import peak_bytes, read_json, write_json, write_progress
from litseq.compare.processes import end_with_parent
from litseq.runtime import Generator


def measure(plan: dict[str, Any], progress: Path) -> dict[str, Any]:
    """Time every bundle of a plan.

    Args:
        plan: `bundles` by arm, `prompts` by arm (ids, the same items for every arm), `options`, and the fields of `Speed`.
        progress: The directory to say in how far it has come.
    """
    arms = {
        name: Generator.from_bundle(path, threads=plan["threads"], reuse_bytes=0)
        for name, path in plan["bundles"].items()
    }
    cells = [(batch, length) for batch in plan["batches"] for length in plan["lengths"]]
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in arms}
    for repeat in range(plan["repeats"] + 1):  # the first one warms up
        for batch, length in cells:
            for name, generator in arms.items():
                prompts = _cycle(plan["prompts"][name], batch)
                room = generator.manifest.model.max_seq_len - max(map(len, prompts)) * (
                    generator.manifest.architecture == "decoder-only"
                )
                if length > room:
                    continue
                start = time.perf_counter()
                generator.generate(
                    prompts, batch_size=batch, max_new_tokens=length, min_new_tokens=length, prompt_lookup=False
                )
                if repeat:
                    seconds[name].setdefault(f"{batch}x{length}", []).append(time.perf_counter() - start)
        write_progress(progress, "timing", 0.7 * (repeat + 1) / (plan["repeats"] + 1))
    answers = _latencies(arms, plan, progress)
    memory = {}
    for number, name in enumerate(arms, 1):
        memory[name] = _memory(plan, name)
        write_progress(progress, "timing", 0.9 + 0.1 * number / len(arms))
    return {
        name: {
            "grid": [_cell(key, values) for key, values in seconds[name].items()],
            "latency": answers[name],
            "memory": memory[name],
        }
        for name in arms
    }


def _cell(key: str, values: list[float]) -> dict[str, float]:
    batch, length = map(int, key.split("x"))
    return {
        "batch": batch,
        "length": length,
        "tokens_per_second": batch * length / float(np.median(values)),
        "p50_ms": 1e3 * float(np.percentile(values, 50)),
        "p95_ms": 1e3 * float(np.percentile(values, 95)),
    }


def _latencies(arms: dict[str, Generator], plan: dict[str, Any], progress: Path) -> dict[str, dict[str, Any]]:
    """One input at a time, to its own end, the arms in turn."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    tokens: dict[str, list[int]] = {name: [] for name in arms}
    count = len(next(iter(plan["prompts"].values())))
    for i in range(count):
        write_progress(progress, "timing", 0.7 + 0.2 * i / count)
        for name, generator in arms.items():
            start = time.perf_counter()
            (completion,) = generator.generate([plan["prompts"][name][i]], **plan["options"])
            found[name].append(1e3 * (time.perf_counter() - start))
            tokens[name].append(len(completion.token_ids))
    return {
        name: {
            "inputs": len(values),
            "p50_ms": float(np.percentile(values, 50)),
            "p95_ms": float(np.percentile(values, 95)),
            "mean_tokens": float(np.mean(tokens[name])),
            "ms": [round(value, 3) for value in values],
        }
        for name, values in found.items()
    }


def _memory(plan: dict[str, Any], name: str) -> dict[str, Any] | None:
    prompts = json.dumps(_cycle(plan["prompts"][name], max(plan["batches"])))
    command = [sys.executable, "-m", "litseq.compare.speed", "--memory", plan["bundles"][name]]
    done = subprocess.run(command, input=prompts, capture_output=True, text=True, check=False)
    return None if done.returncode else json.loads(done.stdout)


def _print_memory(bundle: str) -> None:
    prompts = json.load(sys.stdin)
    before = peak_bytes()
    generator = Generator.from_bundle(bundle, threads=1)
    loaded = peak_bytes()
    generator.generate(prompts, batch_size=len(prompts), max_new_tokens=32, prompt_lookup=False)
    print(
        json.dumps({"python_bytes": before, "loaded_bytes": loaded, "peak_bytes": peak_bytes(), "batch": len(prompts)})
    )


def _cycle(prompts: list[list[int]], count: int) -> list[list[int]]:
    return [prompts[i % len(prompts)] for i in range(count)]


if __name__ == "__main__":
    if sys.argv[1] == "--memory":
        _print_memory(sys.argv[2])
    else:
        end_with_parent()
        out = Path(sys.argv[2])
        write_json(out, measure(read_json(Path(sys.argv[1])), out.parent))
