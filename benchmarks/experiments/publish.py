"""A page of docs/experiments from a finished comparison: the prose, and every table as the run wrote it.

    python benchmarks/experiments/publish.py RUN docs/experiments/NAME.md [--tables TABLES.md] [--no-examples]

The prose is `benchmarks/experiments/pages/NAME.md`; what stands behind it is RUN/report.md and the tables of context.py. All
numbers go beside the page as NAME.json (single latencies and learning curves left out).
"""

import argparse
import json
from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"


def page(prose: str, report: str, tables: str) -> str:
    """The page; the report's own title makes room for the page's."""
    lines = report.splitlines()
    body = [f"#{line}" if line.startswith("#") else line for line in lines[1:]]
    parts = [prose.rstrip()]
    if tables:
        parts += ["## What the experiment asks", tables.rstrip()]
    return "\n\n".join([*parts, "## The report of `litseq compare`", "\n".join(body).strip()]) + "\n"


def without_examples(report: str, results: dict[str, Any]) -> str:
    """The report without sentences of the test set, which not every licence lets out; the results lose theirs in place."""
    for test in results["tests"].values():
        test.pop("examples", None)
    kept, showing = [], True
    for line in report.splitlines():
        if line.startswith("#"):
            showing = not line.lstrip("#").startswith(" Examples")
        if showing or line.startswith("Made by"):
            kept.append(line)
    return "\n".join(kept)


def condensed(results: dict[str, Any]) -> dict[str, Any]:
    """results.json without what nobody compares by hand."""
    for arm in results["arms"].values():
        for run in arm["seeds"].values():
            run["training"].pop("curve", None)
            run["training"].pop("checkpoint", None)
        if arm["speed"]:
            arm["speed"]["latency"].pop("ms", None)
    return results


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--tables", type=Path, help="what context.py printed")
    parser.add_argument(
        "--no-examples", action="store_true", help="leave the examples out: the data must not be copied"
    )
    args = parser.parse_args()
    prose = (PAGES / args.page.name).read_text(encoding="utf-8")
    tables = args.tables.read_text(encoding="utf-8") if args.tables else ""
    report = (args.run / "report.md").read_text(encoding="utf-8")
    results = condensed(json.loads((args.run / "results.json").read_text(encoding="utf-8")))
    if args.no_examples:
        report = without_examples(report, results)
    args.page.write_text(page(prose, report, tables), encoding="utf-8")
    if (args.run / "context.json").is_file():
        results["context"] = json.loads((args.run / "context.json").read_text(encoding="utf-8"))
    # The runs were given the tokenizer by its full path, which is of one machine.
    text = json.dumps(results, indent=1, ensure_ascii=False).replace(f"{Path.cwd()}/", "")
    args.page.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
