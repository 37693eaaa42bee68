"""BLEU of a comparison's translations on tokenised text: lower-cased, in Moses' tokens.

    pip install sacremoses sacrebleu; python benchmarks/experiments/tokenised_bleu.py RUN [--language de]

Papers on Multi30k report BLEU of text that was normalised, lower-cased and tokenised before; `litseq compare` reports
sacreBLEU's `13a`, which tokenises the text as it is. sacreBLEU counts here too, its own tokenizer off.
"""

import argparse
import json
from pathlib import Path

from sacrebleu.metrics import BLEU
from sacremoses import MosesPunctNormalizer, MosesTokenizer


def main() -> None:
    """The command: a table of all arms, seeds and test sets."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the directory of a comparison")
    parser.add_argument("--language", default="de", help="of the references (default: de)")
    args = parser.parse_args()
    normalizer, tokenizer = MosesPunctNormalizer(args.language), MosesTokenizer(args.language)

    def tokens(text: str) -> str:
        return tokenizer.tokenize(normalizer.normalize(text).lower(), escape=False, return_str=True)

    bleu = BLEU(tokenize="none", force=True)
    rows: dict[str, dict[str, str]] = {}
    for file in sorted(args.run.glob("runs/*/seed-*/outputs.json")):
        seed = file.parent.name.removeprefix("seed-")
        for test, found in json.loads(file.read_text(encoding="utf-8")).items():
            score = bleu.corpus_score(
                [tokens(text) for text in found["outputs"]], [[tokens(text) for text in found["references"]]]
            )
            rows.setdefault(f"{file.parent.parent.name}, seed {seed}", {})[test] = f"{score.score:.2f}"
    if not rows:
        raise SystemExit(f"error: {args.run} holds no outputs, expected the directory of a finished comparison")
    tests = list(next(iter(rows.values())))
    print(f"BLEU of lower-cased Moses tokens, sacreBLEU `{bleu.get_signature()}`:\n")
    print("| | " + " | ".join(tests) + " |\n|---|" + "---:|" * len(tests))
    for name, scores in rows.items():
        print(f"| {name} | " + " | ".join(scores.get(test, "-") for test in tests) + " |")


if __name__ == "__main__":
    main()
