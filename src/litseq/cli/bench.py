"""`litseq bench BUNDLE`: the speed of a bundle, beside what this machine could do at best."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from litseq.errors import UsageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `bench`."""
    parser = subparsers.add_parser(
        "bench",
        help="measure a bundle's speed beside this machine's limits",
        description="Time the prompt pass and the steps of a bundle over batch sizes and lengths, and measure what this "
        "machine's memory and cores could do at best.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a directory that `litseq export` wrote")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=[1, 8, 32],
        metavar="N",
        help="rows at the same time (default: 1 8 32)",
    )
    parser.add_argument(
        "--lengths",
        type=int,
        nargs="+",
        default=[32, 512],
        metavar="N",
        help="tokens of a prompt or a source (default: 32 512)",
    )
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="steps to time (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="rounds; medians are shown (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write everything that was measured to FILE; - for standard output"
    )
    parser.add_argument("--plot", metavar="FILE.svg", type=Path, help="draw the speeds beside the limits")
    parser.add_argument("--force", action="store_true", help="replace the files of --json and --plot when they exist")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, show the tables, and write what was asked for."""
    _check(args)
    from rich.console import Console

    from litseq.bench import bench
    from litseq.bench.plot import draw
    from litseq.bench.table import tables

    errors = Console(stderr=True)
    with errors.status("opening the bundle") as status:
        result = bench(
            args.bundle, batch_sizes=args.batch_sizes, lengths=args.lengths, new_tokens=args.new_tokens,
            repeats=args.repeats, threads=args.threads, progress=lambda text: status.update(f"measuring {text}"),
        )  # fmt: skip
    as_json = json.dumps(result.to_dict(), indent=1) + "\n"
    if args.json == Path("-"):
        print(as_json, end="")
    else:
        Console(soft_wrap=False).print(tables(result))
        _write(args.json, as_json)
    _write(args.plot, draw(result) if args.plot else "")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.plot and args.plot.suffix != ".svg":
        raise UsageError(f"--plot is {args.plot}, and a plot is written as SVG; give a name that ends in .svg")
    if args.json and args.json == args.plot:
        raise UsageError(f"--json and --plot both name {args.json}; give them different files")
    for file in (args.json, args.plot):
        if file is None or file == Path("-"):
            continue
        if file.is_dir():
            raise UsageError(f"{file} is a directory; give the name of a file")
        if file.exists() and not args.force:
            raise UsageError(f"{file} exists; choose another name, or replace it with --force")
        if not file.parent.is_dir():
            raise UsageError(f"{file.parent} does not exist; make the directory first")


def _write(file: Path | None, text: str) -> None:
    if file is None or file == Path("-"):
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; choose another place") from error
