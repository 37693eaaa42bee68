"""What the demo measured: one object per architecture, as a table for the eye and as results.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

RESULTS = "results.json"


@dataclass(frozen=True)
class ArchitectureResult:
    """The measurements of one architecture on the test numbers."""

    architecture: str
    parameters: int
    training_seconds: float
    exact_match: float
    chrf: float
    onnx_bytes: int
    parity: float
    tokens_per_second_torch: float
    tokens_per_second_onnxruntime: float
    outputs: list[str]

    def to_json(self, bundle: Path) -> dict[str, str | int | float]:
        """The object that results.json holds."""
        return {
            "architecture": self.architecture,
            "parameters": self.parameters,
            "exact_match": self.exact_match,
            "chrf": self.chrf,
            "parity": self.parity,
            "tokens_per_second_onnxruntime": self.tokens_per_second_onnxruntime,
            "tokens_per_second_torch": self.tokens_per_second_torch,
            "bundle": str(bundle),
        }


def write_results(results: Sequence[ArchitectureResult], directory: Path, final_directory: Path) -> None:
    """Write results.json into `directory`; the bundles it names lie in `final_directory` once that is renamed."""
    objects = [result.to_json(final_directory / result.architecture) for result in results]
    (directory / RESULTS).write_text(json.dumps(objects, indent=2) + "\n", encoding="utf-8")


def print_report(console: Console, results: Sequence[ArchitectureResult], pairs: Sequence[tuple[str, str]]) -> None:
    """Print the table, then what each architecture made of a few test numbers."""
    console.print(_table(results, len(pairs)))
    console.print(_examples(results, pairs))


def _table(results: Sequence[ArchitectureResult], test_count: int) -> Table:
    table = Table(title=f"English -> German number words, {test_count:,} unseen numbers, greedy")
    table.add_column("")
    for result in results:
        table.add_column(result.architecture, justify="right")
    rows = {
        "parameters": [f"{r.parameters:,}" for r in results],
        "training time": [f"{r.training_seconds:.0f} s" for r in results],
        "exact match": [f"{r.exact_match:.1%}" for r in results],
        "chrF": [f"{r.chrf:.2f}" for r in results],
        "ONNX size": [f"{r.onnx_bytes / 2**20:.1f} MiB" for r in results],
        "parity torch/onnxruntime": [f"{r.parity:.1%}" for r in results],
        "tokens/s torch (no cache)": [f"{r.tokens_per_second_torch:,.0f}" for r in results],
        "tokens/s onnxruntime": [f"{r.tokens_per_second_onnxruntime:,.0f}" for r in results],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _examples(results: Sequence[ArchitectureResult], pairs: Sequence[tuple[str, str]], count: int = 3) -> Table:
    wrong = [i for i, (_, german) in enumerate(pairs) if any(r.outputs[i] != german for r in results)]
    right = [i for i in range(len(pairs)) if i not in set(wrong)]
    table = Table(title="Examples (a mistake is marked with x)", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # German number words are longer than a terminal is wide
    # One mistake, if there is any: it teaches more than another success.
    for index in (right[: count - 1] + wrong[:1] + right[count - 1 :])[:count]:
        english, german = pairs[index]
        table.add_section()
        table.add_row("input", english)
        table.add_row("expected", german)
        for result in results:
            text = result.outputs[index]
            is_right = text == german
            table.add_row(f"{'' if is_right else 'x '}{result.architecture}", Text(text, "" if is_right else "red"))
    return table
