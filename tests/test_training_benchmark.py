"""The training benchmark runs: small, and without judging speed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_it_measures_every_case(tmp_path):
    words = ["red", "green", "blue", "cat", "dog"]
    (tmp_path / "pairs.tsv").write_text("".join(f"{a} {b}\t{b} {a}\n" for a in words for b in words))
    (tmp_path / "text.txt").write_text("".join(f"{a} {b} {c}\n" for a in words for b in words for c in words))
    small = [
        "--rounds=1",
        "--steps=1",
        "--threads=1",
        "--max-tokens=256",
        "--systems",
        "litseq",
        "litseq-same",
        "plain",
    ]
    files = [f"--pairs={tmp_path / 'pairs.tsv'}", f"--text={tmp_path / 'text.txt'}", f"--work={tmp_path / 'work'}"]
    command = [sys.executable, str(SCRIPT), *small, *files, f"--out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "benchmark-training.md").read_text()
    assert page.count("x |") == 2
