"""`litseq quantize BUNDLE OUT --to int8|int4`: a smaller, faster bundle from an fp32 one, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from litseq._extras import require_extra
from litseq.errors import UsageError

if TYPE_CHECKING:
    from litseq.quantize import QuantizationReport, QuantizeOptions


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `quantize`."""
    parser = subparsers.add_parser(
        "quantize",
        help="make a smaller, faster bundle from an fp32 bundle",
        description="Quantise an fp32 bundle to 8 or 4 bits, and say what that costs. Needs no torch.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="an fp32 bundle that `litseq export` wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="the new bundle's directory; must not exist yet")
    parser.add_argument("--to", required=True, choices=("int8", "int4"), help="bits of the weights")
    parser.add_argument("--force", action="store_true", help="replace OUT when it is a bundle already")
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `litseq export --quantize` has too."""
    parser.add_argument(
        "--batch",
        choices=("large", "small"),
        help="the batch sizes to serve: large (default of int8) gives every row the same result in any batch, to the "
        "bit; small (the form of int4) is faster, above all for 1 to 4 rows",
    )
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="inputs that share a scale where batch is small, 16 to 128 (default: 128)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        metavar="NATS",
        help="int4: keep at 8 bits what 4 bits hurt most, until the loss rises by no more than this "
        "(default: 0.008, under one percent of perplexity; inf: all at 4 bits)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="texts, one a line (source, tab, target for an encoder-decoder; .jsonl: text, source and target, or "
        "conversations), on which int4 makes up for its errors "
        "(default: texts that the model writes itself)",
    )
    parser.add_argument(
        "--validation",
        type=Path,
        metavar="FILE",
        help="texts as above: measure perplexity on them, and BLEU and chrF of pairs, before and after",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")


def options_of(args: argparse.Namespace, to: Literal["int8", "int4"]) -> QuantizeOptions:
    """What `add_options` was given."""
    from litseq.quantize import QuantizeOptions

    if args.max_loss is not None and to != "int4":
        raise UsageError("--max-loss has no meaning for int8, which has 8 bits everywhere; leave it out")
    limit = {} if args.max_loss is None else {"max_loss": args.max_loss}
    return QuantizeOptions(
        to, args.batch, args.block, calibration=args.calibration, validation=args.validation, threads=args.threads,
        **limit,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Check, quantise, measure, and print what was measured."""
    require_extra("quantize", "litseq quantize")
    from rich.console import Console

    from litseq.quantize import quantize_bundle

    options = options_of(args, args.to)
    console = Console(stderr=True)
    with console.status("reading the bundle") as status:
        report = quantize_bundle(args.bundle, args.out, options, force=args.force, say=status.update)
    show(args.out, report)
    return 0


def show(out: Path, report: QuantizationReport) -> None:
    """Print a report."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "", show_header=False, title=escape(str(out)), title_justify="left")
    share = report.bytes_after / report.bytes_before
    machine = report.machine
    features = machine.get("features")
    rows = {
        "graphs and weights": f"{report.bytes_after / 1e6:,.1f} MB, {share:.2f} of {report.bytes_before / 1e6:,.1f} MB",
        "measured on": f"{report.measured_on}, {report.positions:,} positions",
        "KL(fp32 || quantised)": f"{report.kl:.3g} nats",
        "same greedy token": f"{report.greedy_agreement:.2%}",
        "texts that a batch changes": report.rows_changed_by_batch,
    }
    if report.kept_at_8_bits:
        rows["kept at 8 bits"] = f"{report.kept_at_8_bits:.0%} of the weights in the layers, which 4 bits hurt most"
    for name, values in report.metrics.items():
        rows[name] = f"{values['fp32']:.4g} in fp32, {values['quantised']:.4g} quantised"
    named = " ".join(map(str, features)) if isinstance(features, list) else ""
    rows["machine"] = f"{machine.get('cpu')} ({named}), onnxruntime {machine.get('onnxruntime')}"
    for name, text in rows.items():
        table.add_row(name, escape(text))
    Console(soft_wrap=False).print(table)
