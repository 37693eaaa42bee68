"""The perplexity that llama.cpp's own quantisation leaves, on the windows that `quality.py --save-windows` wrote.

    python benchmarks/quality_gguf.py model.gguf windows.json --types f32 q4_0 q8_0 [--threads 1]

Runs where `llama-cpp-python` is installed (`benchmarks/peers/setup.sh`), on token ids, so both see the same tokens.
"""

import argparse
import ctypes
import json
import math
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

TYPES = {
    "f32": llama_cpp.LLAMA_FTYPE_ALL_F32,
    "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def quantize(source: Path, target: Path, kind: int, threads: int) -> None:
    """What the command `llama-quantize` does."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, threads
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if code:
        raise SystemExit(f"llama.cpp could not quantise {source}: code {code}")


def losses(model: llama_cpp.Llama, pieces: list[list[int]]) -> np.ndarray:
    """The negative log-probability of every token but the first of each window."""
    found = []
    for piece in pieces:
        model.reset()
        model.eval(piece)
        logits = np.array(model.scores[: len(piece) - 1], np.float64)
        logits -= logits.max(-1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        found.append(-log_probs[np.arange(len(piece) - 1), piece[1:]])
    return np.concatenate(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("windows", type=Path)
    parser.add_argument("--types", nargs="+", choices=sorted(TYPES), default=["f32", "q4_0"])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    windows = json.loads(args.windows.read_text())
    reference: dict[str, np.ndarray] = {}
    for name in args.types:
        with tempfile.TemporaryDirectory() as directory:
            path = args.gguf if name == "f32" else Path(directory) / "model.gguf"
            if name != "f32":
                quantize(args.gguf, path, TYPES[name], args.threads)
            model = llama_cpp.Llama(
                str(path),
                n_ctx=1024,
                n_threads=args.threads,
                n_threads_batch=args.threads,
                logits_all=True,
                verbose=False,
            )
            for text, pieces in windows.items():
                found = losses(model, pieces)
                base = reference.setdefault(text, found)
                above = 100 * (math.exp((found - base).mean()) - 1)
                size = path.stat().st_size / 1e6
                print(
                    f"{name} ({size:.1f} MB) {text}: perplexity {math.exp(found.mean()):.3f}, {above:+.2f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
