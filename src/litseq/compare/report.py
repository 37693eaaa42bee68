"""results.json, report.md and report.html."""

import json
import os
from pathlib import Path
from typing import Any

from litseq._json import standard
from litseq.compare.html import page
from litseq.compare.tables import Table, all_tables

RESULTS, MARKDOWN, HTML = "results.json", "report.md", "report.html"


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write the three files, each whole or not at all."""
    texts = {
        RESULTS: json.dumps(standard(results), ensure_ascii=False, indent=1, allow_nan=False) + "\n",
        MARKDOWN: markdown(results),
        HTML: page(results),
    }
    for name, text in texts.items():
        beside = out / f".{name}.{os.getpid()}.tmp"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, out / name)


def markdown(results: dict[str, Any]) -> str:
    """The report as Markdown."""
    found = results["recommendation"]
    lines = [f"# {results['title']}", "", f"**{found['headline']}** (confidence: {found['confidence']})", ""]
    lines += [f"- {sentence}" for sentence in found["sentences"]]
    lines += ["", "What this does not show:", "", *(f"- {caveat}" for caveat in found["caveats"])]
    for table in all_tables(results).values():
        if table.rows:
            lines += ["", f"## {table.title}", "", *_markdown_table(table)]
    test, answers = next(iter(results["tests"].items()))
    lines += ["", f"## Examples ({test})", ""]
    for example in answers["examples"]:
        lines += [f"- input: {_flat(example['input'])}", f"  - expected: {_flat(example['reference'])}"]
        lines += [f"  - {results['arms'][arm]['label']}: {_flat(text)}" for arm, text in example["outputs"].items()]
    machine = results["machine"]
    lines += [
        "",
        f"Made by `litseq compare`, litseq {results['litseq_version']}, {results['date']}, on {machine['system']}, "
        f"{machine['processor']}, {machine['cores']} cores. All numbers are in results.json.",
        "",
    ]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [row(table.head), "|---|" + "---:|" * (len(table.head) - 1), *(row(cells) for cells in table.rows)]
    return [*lines, "", table.note] if table.note else lines


def _flat(text: str) -> str:
    return " ".join(text.split()) or "(nothing)"
