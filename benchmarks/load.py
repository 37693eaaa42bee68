"""How long a bundle takes until it is ready, and how much memory it takes at most; every line a fresh process.

    python benchmarks/load.py BUNDLE [...] [--threads 2] [--repeats 3]

Times and memory are medians. `ready` is `Generator.from_bundle` with its hashes checked, file cache warm. `peak` is the
highest resident memory of the process after it generated, mapped pages included; beside it what the interpreter with
its imports takes alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """MiB of this process, as Linux counts them."""

    peak: float
    resident: float
    private: float
    mapped: float


def memory() -> Memory:
    """What this process holds now, and the most it ever held."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    return Memory(*(int(fields[name].split()[0]) / 1024 for name in names))


def measure(bundle: str, threads: int) -> dict[str, float]:
    """Open, load, generate; in a process that did nothing before."""
    from litseq.runtime import Generator

    alone, begin, cpu = memory().peak, time.perf_counter(), time.process_time()
    generator = Generator.from_bundle(bundle, threads=threads)
    ready, cpu = time.perf_counter() - begin, time.process_time() - cpu
    generator.generate([[3, 4, 5, 6, 7, 8]], max_new_tokens=16)
    size = sum(entry.bytes for entry in generator.manifest.files.values()) / 2**20
    found = memory()
    return {
        "size": size,
        "alone": alone,
        "ready": ready,
        "cpu": cpu,
        "peak": found.peak,
        "after": found.resident,
        "ratio": found.peak / size,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.bundles[0], args.threads)))
        return
    print("| bundle | MiB | ready, s (CPU s) | peak, MiB | of the size | after | imports alone |")
    print("|---|---|---|---|---|---|---|")
    for bundle in args.bundles:
        command = [sys.executable, __file__, bundle, "--one", "--threads", str(args.threads)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(args.repeats)]
        m = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(
            f"| {bundle} | {m['size']:.0f} | {m['ready']:.2f} ({m['cpu']:.2f}) | {m['peak']:.0f} | {m['ratio']:.2f} x "
            f"| {m['after']:.0f} | {m['alone']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
