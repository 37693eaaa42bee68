"""Tiny Shakespeare as nanoGPT splits it, and the validation loss of a training.

python benchmarks/experiments/shakespeare.py split tinyshakespeare.txt.gz OUT    the first 90 % of the characters train
python benchmarks/experiments/shakespeare.py table OUT/lightning_logs/version_0/metrics.csv
"""

import csv
import gzip
import sys
from pathlib import Path


def split(source: Path, out: Path) -> None:
    """`train.txt` and `val.txt`."""
    text = gzip.decompress(source.read_bytes()).decode("utf-8")
    at = int(0.9 * len(text))
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", text[:at]), ("val", text[at:])):
        (out / f"{name}.txt").write_text(part, encoding="utf-8", newline="")


def table(metrics: Path) -> str:
    """Step and validation loss as Markdown."""
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/loss")]
    lines = [f"| {int(row['step']) + 1} | {float(row['val/loss']):.4f} |" for row in rows]
    return "\n".join(["| step | validation loss |", "|---:|---:|", *lines])


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "split":
        split(Path(sys.argv[2]), Path(sys.argv[3]))
    elif len(sys.argv) == 3 and sys.argv[1] == "table":
        print(table(Path(sys.argv[2])))
    else:
        raise SystemExit(__doc__)
