"""What quantisation costs a trained model: perplexity of every variant over the same windows of the same texts.

    python benchmarks/quality.py BUNDLE --texts stories-pd.valid.txt.gz wikitext-2-raw.test.txt.gz [--work DIR]
        [--calibration stories-pd.train.txt.gz] [--variants int8-large int4 ...] [--windows 20] [--out results.json]

The floor is plain rounding: symmetric steps over the whole range of each block, as onnxruntime's own tool does it.
"""

import argparse
import gzip
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np

from litseq.quantize import QuantizeOptions, quantize_bundle, rounding
from litseq.runtime import Generator

WINDOW = 512
VARIANTS: dict[str, dict[str, object]] = {
    "int8-large": {"to": "int8", "batch": "large"},
    "int8-small": {"to": "int8", "batch": "small"},
    "int4": {"to": "int4", "calibration": True},
    "int4-own-texts": {"to": "int4"},
    "int4-all": {"to": "int4", "calibration": True, "max_loss": math.inf},
    "int4-own-texts-all": {"to": "int4", "max_loss": math.inf},
    "int4-block32": {"to": "int4", "block": 32, "max_loss": math.inf},
    "int4-head4": {"to": "int4", "head_bits": 4, "max_loss": math.inf},
    "int4-nearest": {"to": "int4", "compensate": False, "max_loss": math.inf},
    "int4-plain": {"to": "int4", "compensate": False, "max_loss": math.inf},
}


def windows(generator: Generator, path: Path, most: int) -> list[list[int]]:
    """The text cut into windows of `WINDOW` tokens; the first token of each is not scored."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        ids = generator.tokenizer.encode(file.read())
    starts = range(0, len(ids) - WINDOW, WINDOW)
    chosen = np.linspace(0, len(starts) - 1, min(most, len(starts))).astype(int)
    return [ids[starts[i] : starts[i] + WINDOW] for i in chosen]


def losses(generator: Generator, pieces: list[list[int]]) -> np.ndarray:
    """The negative log-probability of every token of every window."""
    scores = [generator.score([piece[:1]], [piece[1:]])[0].logprobs for piece in pieces]
    return -np.array(scores).ravel()


def plain(blocks: np.ndarray, bits: int, importance: object = None) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric steps over the whole range."""
    middle = 1 << (bits - 1)
    scale = np.maximum(np.abs(blocks).max(-1) / (middle - 1), 1e-30).astype(np.float32)
    return scale, np.full(scale.shape, middle, np.uint8)


def make(bundle: Path, name: str, work: Path, calibration: Path | None, threads: int | None) -> Path:
    """The quantised bundle of a variant, kept between runs."""
    directory = work / name
    if not directory.exists():
        values = VARIANTS[name] | {"threads": threads}
        if values.pop("calibration", False):
            values["calibration"] = calibration
        fit = rounding.fit
        if name == "int4-plain":
            rounding.fit = plain
        began = time.monotonic()
        report = quantize_bundle(bundle, directory, QuantizeOptions(**values))
        rounding.fit = fit
        print(
            f"{name}: {time.monotonic() - began:.0f} s, KL {report.kl:.5f}, agreement {report.greedy_agreement:.4f}",
            flush=True,
        )
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "litseq-quality")
    parser.add_argument("--save-windows", type=Path, help="write the token ids, for quality_gguf.py")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, object]] = {}
    reference: dict[str, np.ndarray] = {}
    for name in ["fp32", *args.variants]:
        directory = (
            args.bundle if name == "fp32" else make(args.bundle, name, args.work, args.calibration, args.threads)
        )
        generator = Generator.from_bundle(directory, threads=args.threads, verify=False)
        size = sum((directory / file).stat().st_size for file in generator.manifest.files if "token" not in file)
        if name == "fp32" and args.save_windows is not None:
            args.save_windows.write_text(
                json.dumps({path.name: windows(generator, path, args.windows) for path in args.texts})
            )
        results[name] = {"megabytes": round(size / 1e6, 1)}
        for path in args.texts:
            found = losses(generator, windows(generator, path, args.windows))
            base = reference.setdefault(path.name, found)
            difference = found - base
            results[name][path.name] = {
                "perplexity": math.exp(found.mean()),
                "percent_above_fp32": 100 * (math.exp(difference.mean()) - 1),
                "percent_standard_error": 100 * float(difference.std() / math.sqrt(len(difference))),
                "tokens": len(found),
            }
        print(name, json.dumps(results[name]), flush=True)
        if args.out is not None:
            args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
