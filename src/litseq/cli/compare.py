"""`litseq compare -c compare.yaml`: the experiment and its report."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from litseq.compare.loading import load, make_parser
from litseq.compare.report import HTML
from litseq.compare.run import run_comparison
from litseq.errors import LitseqError

_DESCRIPTION = (
    "Train several arms (architectures, objectives, sizes) on the same data, export them, generate with onnxruntime, and "
    "write results.json, report.md and report.html into `out`. A second call goes on where the first one stopped."
)


def run(argv: Sequence[str]) -> int:
    """Run `litseq compare`.

    Args:
        argv: What stands behind `compare`.

    Returns:
        0.

    Raises:
        LitseqError: What the user can mend, in one line; also where some runs failed, behind the report.
    """
    # A console script has its own directory on the path, not the user's; `class_path: my_module.MyModel` is there.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    parser = argparse.ArgumentParser(
        prog="litseq compare",
        description=_DESCRIPTION,
        epilog="Every setting of the file can be given here as well: --out=DIR, --data.init_args.train=FILE, "
        "--budget.tokens=1000000. The settings:",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, help="the comparison, a YAML file")
    parser.add_argument("--force", action="store_true", help="throw away the runs of another configuration in `out`")
    if "-h" in argv or "--help" in argv:
        parser.print_help()
        print("\n" + make_parser().format_help().partition("\n\n")[2])
        return 0
    args, overrides = parser.parse_known_args(list(argv))
    comparison = load(args.config, overrides)
    try:
        results = run_comparison(comparison, force=args.force)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; the same command, without --force, goes on where it stopped") from None
    found = results["recommendation"]
    print(f"{found['headline']} (confidence: {found['confidence']})")
    print(f"The report: {os.path.join(comparison.out, HTML)}")
    if failed := results["failed"]:
        first = failed[0]
        raise LitseqError(
            f"{len(failed)} of {len(comparison.arms) * len(comparison.seeds)} runs failed, the report is without them;"
            f" {first['arm']}, seed {first['seed']}: {first['reason']}"
        )
    return 0
