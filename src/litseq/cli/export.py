"""`litseq export CHECKPOINT OUT`: a Lightning checkpoint becomes a verified ONNX bundle."""

import argparse
import os
import sys
from pathlib import Path
from typing import Literal

from litseq._extras import require_extra
from litseq.cli import quantize
from litseq.errors import CheckpointError, UsageError

_WEIGHTS: dict[str | None, Literal["any", "averaged", "current"]] = {None: "any", "ema": "averaged", "raw": "current"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand `export`."""
    parser = subparsers.add_parser(
        "export",
        help="turn a checkpoint into a verified ONNX bundle",
        description="Export a Lightning checkpoint to an ONNX bundle, and keep the bundle only if onnxruntime and "
        "torch agree on it.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a .ckpt file that `litseq fit` wrote")
    parser.add_argument("out", metavar="OUT", type=Path, help="the bundle's directory; must not exist yet")
    parser.add_argument("--force", action="store_true", help="replace OUT when it is a bundle already")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        metavar="MAX",
        help="the largest difference of a logit between torch and onnxruntime, relative to the larger of 1 and the "
        "root mean square of the logits (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=("ema", "raw"),
        help="of a training with a running average (EMAWeightAveraging): the average, which is the default, or the raw "
        "weights the optimizer was at; `litseq average` makes the mean of several checkpoints",
    )
    parser.add_argument(
        "--quantize", choices=("int8", "int4"), help="quantise the verified bundle, see `litseq quantize`"
    )
    quantize.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check both paths while it is cheap, then load, export and verify."""
    checkpoint: Path = args.checkpoint
    if not checkpoint.is_file():
        what = "a directory" if checkpoint.is_dir() else "no such file"
        msg = f"checkpoint {checkpoint}: {what}; expected a .ckpt file, as `litseq fit` writes one"
        raise CheckpointError(msg)
    if args.out.exists() and not args.force:
        msg = f"{args.out} exists already; name another directory, or replace it with --force"
        raise UsageError(msg)
    if args.tolerance <= 0:
        msg = f"--tolerance {args.tolerance}: expected a number above 0"
        raise UsageError(msg)
    given = [
        name for name in ("batch", "block", "max_loss", "calibration", "validation") if getattr(args, name) is not None
    ]
    if given and args.quantize is None:
        msg = f"--{given[0].replace('_', '-')} has no meaning without --quantize; add --quantize int8 or int4"
        raise UsageError(msg)
    require_extra("train", "litseq export")
    # Where `litseq fit` found `class_path: my_module.MyModel`, the checkpoint's class is found again.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())

    from litseq.export import export_bundle
    from litseq.models import load_module

    options = None
    if args.quantize is not None:
        options = quantize.options_of(args, args.quantize)
    module = load_module(checkpoint, weights=_WEIGHTS[args.weights])
    tokenizer = module.record.load_tokenizer()
    if tokenizer is None:
        msg = (
            f"checkpoint {checkpoint} holds no tokenizer, and a bundle needs one; train with a data module that has one, "
            "or call litseq.export.export_bundle(module, tokenizer, directory)"
        )
        raise CheckpointError(msg)
    report = export_bundle(module, tokenizer, args.out, force=args.force, tolerance=args.tolerance, quantize=options)
    print(
        f"{args.out}: verified, largest error of a logit {report.max_error:.1e} (tolerance {report.tolerance:.0e}), "
        f"greedy tokens equal at {report.token_agreement:.1%} of {report.positions} positions"
    )
    if report.quantization is not None:
        quantize.show(args.out, report.quantization)
    return 0
