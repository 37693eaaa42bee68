"""`litseq average CHECKPOINT ... OUT`: the mean of the weights of several checkpoints."""

import argparse
from pathlib import Path

from litseq._extras import require_extra


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand `average`."""
    parser = subparsers.add_parser(
        "average",
        help="average the weights of checkpoints",
        description="Write a checkpoint whose weights are the mean of those of several checkpoints of one training, "
        "usually its last ones; `litseq export` makes a bundle of it.",
    )
    parser.add_argument("checkpoints", metavar="CHECKPOINT", type=Path, nargs="+", help=".ckpt files of one training")
    parser.add_argument("out", metavar="OUT", type=Path, help="the .ckpt file to write; must not exist yet")
    parser.add_argument("--force", action="store_true", help="replace OUT when it exists already")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Average and say so."""
    require_extra("train", "litseq average")
    from litseq.models import average_checkpoints

    average_checkpoints(args.checkpoints, args.out, force=args.force)
    print(f"{args.out}: the mean of {len(args.checkpoints)} checkpoints")
    return 0
