"""`litseq demo`: the main job, start to end, on data made on the spot."""

import argparse
import os
from pathlib import Path

from litseq._extras import require_extra
from litseq.errors import UsageError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="train both architectures on number words, export, verify, generate and compare",
        description="Train an encoder-decoder and a decoder-only model of equal size on number words, English to "
        "German, export both, verify them, generate with onnxruntime, and print one table. About five minutes on two "
        "cores.",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="keep both bundles and results.json here")
    parser.add_argument("--force", action="store_true", help="replace DIR when it is an earlier demo's")
    parser.add_argument(
        "--gallery", metavar="DIR", type=Path, help="trained bundles that translate at the end; exports/ in a checkout"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and the order (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo with its default sizes."""
    require_extra("train", "litseq demo")
    if args.gallery is not None and not args.gallery.is_dir():
        raise UsageError(f"--gallery {args.gallery} is no directory; name one with bundles in it, or leave it out")
    # Read when torch loads its OpenMP. Threads that wait busily for long are no faster where the cores are free, and
    # were measured to make a step twice as slow where something else runs beside.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from litseq.demo.run import run_demo
    from litseq.demo.settings import DemoSettings

    run_demo(DemoSettings(seed=args.seed), out=args.out, force=args.force, gallery=args.gallery)
    return 0
