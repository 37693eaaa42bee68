"""results.json and the table say what was measured."""

import io
import json

from rich.console import Console

from litseq.demo.report import ArchitectureResult, print_report, write_results

PAIRS = [("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier")]


def result(architecture, outputs):
    return ArchitectureResult(
        architecture=architecture,
        parameters=1_234_567,
        training_seconds=12.3,
        exact_match=0.75,
        chrf=98.765,
        onnx_bytes=3 * 2**20,
        parity=1.0,
        tokens_per_second_torch=100.0,
        tokens_per_second_onnxruntime=9_876.0,
        outputs=outputs,
    )


RESULTS = [
    result("encoder-decoder", ["eins", "zwei", "drei", "vier"]),
    result("decoder-only", ["eins", "zwei", "[red]drie[/red]", "vier"]),
]


def test_results_have_exactly_these_keys(tmp_path):
    write_results(RESULTS, tmp_path, tmp_path / "final")
    objects = json.loads((tmp_path / "results.json").read_text())
    assert [sorted(item) for item in objects] == 2 * [
        [
            "architecture",
            "bundle",
            "chrf",
            "exact_match",
            "parameters",
            "parity",
            "tokens_per_second_onnxruntime",
            "tokens_per_second_torch",
        ]
    ]
    assert objects[0]["bundle"] == str(tmp_path / "final" / "encoder-decoder")
    assert objects[1]["tokens_per_second_onnxruntime"] == 9_876.0


def test_table_and_examples_show_numbers_and_the_mistake():
    stream = io.StringIO()
    print_report(Console(file=stream, width=120), RESULTS, PAIRS)
    text = stream.getvalue()
    for part in ("1,234,567", "12 s", "75.0%", "98.77", "3.0 MiB", "100.0%", "9,876", "three", "[red]drie[/red]"):
        assert part in text
