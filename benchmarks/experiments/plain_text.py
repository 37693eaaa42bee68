"""Pre-train on plain text, fine-tune on few pairs: what is needed before, and the table after.

    python benchmarks/experiments/plain_text.py prepare OUT --stories stories-pd.train.txt.gz --pairs tatoeba.train.tsv.gz

writes `tokenizer.json`, of the stories and both sides of the pairs, with the sentinels of span corruption, and
`pairs-1000.tsv`, `pairs-10000.tsv`, drawn at random.

    python benchmarks/experiments/plain_text.py table PRETRAINING FINE-TUNING [FINE-TUNING ...]

prints one table of the finished comparisons, a column for each fine-tuning.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from litseq.data import PairDataModule, TextDataModule
from litseq.text import Tokenizer

SIZES = (1_000, 10_000)


def prepare(out: Path, stories: str, pairs: str, vocab_size: int = 4000, seed: int = 0) -> None:
    """Write the tokenizer and the small training sets."""
    out.mkdir(parents=True, exist_ok=True)
    text = TextDataModule(train=stories, objective="span-corruption")
    (documents,) = text.read_all(stories)
    sources, targets = PairDataModule(train=pairs).read_all(pairs)
    texts = [*documents, *sources, *targets]
    Tokenizer.train(texts, vocab_size=vocab_size, special_tokens=text.special_tokens).save(out / "tokenizer.json")
    order = random.Random(seed).sample(range(len(sources)), max(SIZES))
    for size in SIZES:
        lines = (f"{sources[i]}\t{targets[i]}\n" for i in order[:size])
        (out / f"pairs-{size}.tsv").write_text("".join(lines), encoding="utf-8")


def table(pretraining: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str:
    """A row an arm, a column a fine-tuning: BLEU and bits per byte of the references."""
    titles = [f"{run['title'].rpartition(', ')[2]}: BLEU / bits per byte" for run in runs]
    lines = ["| | bits per byte of the stories | " + " | ".join(titles) + " |", "|---|---:|" + "---:|" * len(runs)]
    before = next(iter(pretraining["tests"].values()))["scores"]["bits_per_byte"]
    for name in runs[0]["arms"]:
        cells = [f"{before[name.removesuffix('-pretrained')]['value']:.3f}" if name.endswith("-pretrained") else "-"]
        for run in runs:
            scores = next(iter(run["tests"].values()))["scores"]
            if name in scores["bleu"]:
                cells.append(f"{scores['bleu'][name]['value']:.1f} / {scores['bits_per_byte'][name]['value']:.3f}")
            else:
                cells.append("failed")
        lines.append(f"| {runs[0]['arms'][name]['label']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("prepare")
    first.add_argument("out", type=Path)
    first.add_argument("--stories", required=True)
    first.add_argument("--pairs", required=True)
    first.set_defaults(run=lambda args: prepare(args.out, args.stories, args.pairs))
    last = commands.add_parser("table")
    last.add_argument("pretraining", type=Path)
    last.add_argument("runs", type=Path, nargs="+")
    last.set_defaults(run=lambda args: print(table(_results(args.pretraining), [_results(run) for run in args.runs])))
    args = parser.parse_args()
    args.run(args)


def _results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
