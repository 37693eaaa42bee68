"""litseq beside its peers: same weights, same prompts, one process a system, in turns.

    python benchmarks/peers [--cases llama-fp32 base ...] [--budget-minutes 30] [--out docs]

Peers live in environments of their own (setup.sh makes them); what is not installed is left out, and the report says
why. Models are made from a seed and converted once, into --work. Results are merged into one JSON file after every case,
so that the table can be made in pieces; the report is written from that file.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from cases import CASES, Case, select
from measure import measure, reference_file, write_reference
from prepare import prepare_shape, prepare_system
from processes import Unavailable, Worker
from report import write_report
from scenarios import run_scenario
from shapes import SHAPES
from systems import SYSTEMS

from litseq.bench.limits import read_bandwidth
from litseq.bench.weights import decoder_weights
from litseq.bundle import open_bundle


def main() -> None:
    args = _arguments()
    cases = select(args.cases)
    results = _load(args.out / "benchmarks.json")
    deadline = time.monotonic() + 60 * args.budget_minutes
    if args.only_report:
        write_report(results, args.out)
        return
    for group in dict.fromkeys(case.group for case in cases):
        of_group = [case for case in cases if case.group == group]
        if time.monotonic() > deadline and not args.prepare:
            print(f"out of time before {', '.join(case.name for case in of_group)}")
            continue
        run = _Group(of_group, args)
        try:
            workers = run.start()
            if not args.prepare:
                run.measure(workers, results, deadline)
        finally:
            run.stop()
        if args.discard:
            run.discard()


class _Group:
    """Cases that share their loaded systems."""

    def __init__(self, cases: list[Case], args: argparse.Namespace) -> None:
        self.cases, self.args = cases, args
        self.shape = SHAPES[cases[0].shape]
        self.precision = cases[0].precision
        self.directory: Path = args.work / self.shape.name
        self.log: Path = args.work / "log.txt"
        self.absent: dict[str, str] = {}
        self.workers: list[Worker] = []

    def start(self) -> list[Worker]:
        """Prepare the models and load every system that can run."""
        args = self.args
        args.work.mkdir(parents=True, exist_ok=True)
        prepare_shape(self.shape, self.directory, self.log)
        self._references()
        wanted = [n for n in SYSTEMS if any(c.only is None or n in c.only for c in self.cases) or n == "litseq"]
        for system in wanted:
            if args.systems and system not in [*args.systems, "litseq"]:
                continue
            try:
                prepare_system(system, self.shape, self.precision, self.directory, args.environments, self.log)
                if args.prepare:
                    continue
                self.workers += [self._worker(system, v, self.precision) for v in self._variants(system)]
            except Unavailable as error:
                self.absent[system] = str(error)
                print(f"{self.cases[0].group}: no {system}: {error}", flush=True)
        return self.workers

    def _variants(self, system: str) -> list[str]:
        """Settings to try: of a model of gigabytes the first only, since each takes its memory."""
        variants = list(SYSTEMS[system].variants)
        files = all(case.measure == "file" for case in self.cases)
        batches = any(case.batch > 1 and case.measure in ("decode", "whole") for case in self.cases)
        if system == "litseq":
            forms = ["large", "small"] if self.precision == "int8" else [""]
            shared = [", ".join(filter(None, (form, "2 workers"))) for form in forms]
            if files:
                return shared
            return [*forms, *shared] if batches and self.shape.name != "1b" else forms
        if self.shape.name == "1b":
            return variants[:1]
        if files:
            return [v for v in variants if v in ("", "2 workers")]
        return variants if batches else [v for v in variants if v != "2 workers"]

    def _worker(self, system: str, variant: str, precision: str) -> Worker:
        args = self.args
        return Worker(system, variant, self.directory, precision, args.threads, args.environments, self.log)

    def _references(self) -> None:
        """Have transformers generate what tokens are compared with, where that was not done yet."""
        compared = ("decode", "whole", "first")
        missing = [c for c in self.cases if c.measure in compared and not reference_file(c, self.directory).is_file()]
        if not missing:
            return
        print(f"{self.shape.name}: what transformers generates ...", flush=True)
        worker = self._worker("transformers", "", "fp32")
        for case in missing:
            write_reference(case, self.directory, worker)
        worker.stop()

    def measure(self, workers: list[Worker], results: dict[str, Any], deadline: float) -> None:
        """Run the cases, and write the results and the report after each."""
        for case in self.cases:
            if time.monotonic() > deadline:
                print(f"out of time before {case.name}")
                continue
            own = [w for w in workers if w.system == "litseq" or case.only is None or w.system in case.only]
            if not any(worker.system == "litseq" for worker in own):
                results["cases"][case.name] = {"case": asdict(case), "absent": self.absent} | _machine(self.args)
                _save(results, self.args.out)
                continue
            try:
                found = self._case(case, own)
            except (Unavailable, KeyError, TypeError) as error:
                print(f"{case.name}: failed: {error}", flush=True)
                self.absent["litseq"] = f"{type(error).__name__}: {error}"
                continue
            absent = {n: r for n, r in self.absent.items() if case.only is None or n in case.only}
            versions = {k: v for worker in own for k, v in worker.versions.items()}
            results["cases"][case.name] = found | {"absent": absent, "versions": versions} | _machine(self.args)
            _save(results, self.args.out)
            print(_line(case, found), flush=True)

    def _case(self, case: Case, workers: list[Worker]) -> dict[str, Any]:
        repeats = self.args.repeats or case.repeats
        begin = time.monotonic()
        if case.measure in ("serve", "chat", "lookup", "file"):
            found = run_scenario(case, workers, repeats, self.directory, self.args.quick)
        else:
            shorter = replace(case, new=min(case.new, 12), repeats=repeats) if self.args.quick else case
            if shorter is not case and not reference_file(shorter, self.directory).is_file():
                worker = self._worker("transformers", "", "fp32")
                write_reference(shorter, self.directory, worker)
                worker.stop()
            single = shorter.measure == "decode" and shorter.batch * shorter.beams == 1
            probe = partial(read_bandwidth, self.args.threads) if single else None
            found = measure(shorter, workers, repeats, self.directory, probe) | {"case": asdict(shorter)}
            bandwidths = found.pop("probes")
            found |= _against_best(found)
            if bandwidths and found["litseq"] is not None:
                found |= _roofline(shorter, found, bandwidths, self.directory)
        return {"case": asdict(case)} | found | {"repeats": repeats, "minutes": (time.monotonic() - begin) / 60}

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()

    def discard(self) -> None:
        """Remove the converted weights of this precision: a model of gigabytes in every form fills a disk."""
        import shutil

        for path in self.directory.glob(f"*-{self.precision}"):
            if path.is_dir() and path.name != "litseq-fp32":
                shutil.rmtree(path)


def _against_best(found: dict[str, Any]) -> dict[str, Any]:
    systems = found["systems"]

    def fastest(ours: bool) -> str | None:
        names = [name for name, values in systems.items() if (values["system"] == "litseq") == ours]
        return max(names, key=lambda name: systems[name]["tokens_per_second"], default=None)

    litseq, peer = fastest(True), fastest(False)
    if litseq is None or peer is None:
        return {"litseq": litseq, "best_peer": peer, "ratio": None}
    ratio = systems[litseq]["tokens_per_second"] / systems[peer]["tokens_per_second"]
    return {"litseq": litseq, "best_peer": peer, "ratio": ratio}


def _roofline(case: Case, found: dict[str, Any], bandwidths: list[float], directory: Path) -> dict[str, Any]:
    """Bytes of weights that a step reads, and the share of this machine's bandwidth that litseq reached.

    The bandwidth is the median over the rounds: on a virtual machine it may double from one second to the next,
    probably as its processors share a core or do not.
    """
    form = found["litseq"].partition(" (")[2].rstrip(")")
    bundle = directory / f"litseq-{case.precision}{f'-{form}' if form else ''}"
    weights = decoder_weights(open_bundle(bundle, verify=False))
    reached = weights.bytes * found["systems"][found["litseq"]]["tokens_per_second"]
    return {
        "bandwidths": bandwidths,
        "step_bytes": weights.bytes,
        "bandwidth_share": reached / statistics.median(bandwidths),
    }


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    from litseq.runtime.processor import this_processor

    cpu = f"{os.cpu_count()} x {this_processor().name}"
    return {"threads": args.threads, "quick": args.quick, "date": time.strftime("%Y-%m-%d %H:%M"), "cpu": cpu}


def _line(case: Case, found: dict[str, Any]) -> str:
    speeds = {n: round(v["tokens_per_second"], 1) for n, v in found["systems"].items() if "tokens_per_second" in v}
    ratio = f"{found['ratio']:.2f}" if found.get("ratio") else "-"
    share = f", {100 * found['bandwidth_share']:.0f} % of bandwidth" if "bandwidth_share" in found else ""
    return (
        f"{case.name}: {ratio} x {found.get('best_peer')} (aim {case.target}){share} {speeds} {found.get('note', '')}"
    )


def _load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.is_file() else {"cases": {}}


def _save(results: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results["command"] = "python benchmarks/peers " + shlex.join(sys.argv[1:])
    order = {case.name: place for place, case in enumerate(CASES)}
    results["cases"] = dict(sorted(results["cases"].items(), key=lambda item: order.get(item[0], len(order))))
    (out / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    write_report(results, out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python benchmarks/peers", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="beginnings of case names (default: all)")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help="peers to run (default: all installed)")
    parser.add_argument("--repeats", type=int, help="rounds of every case (default: each case's own)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget-minutes", type=float, default=1e9, help="begin no case after so many minutes")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "litseq-peers", help="models go here"
    )
    parser.add_argument("--environments", type=Path, default=Path(__file__).parent / "environments")
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "litseq-peers", help="reports go here"
    )
    parser.add_argument("--quick", action="store_true", help="a few tokens only: whether all of it runs")
    parser.add_argument("--prepare", action="store_true", help="make and convert the models, and measure nothing")
    parser.add_argument("--discard", action="store_true", help="remove converted weights behind each group of cases")
    parser.add_argument("--only-report", action="store_true", help="write the report from the results that are there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
