"""The bundles of the gallery: what they are made of, how they are measured, and what their cards say."""

import csv
import gzip
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from sacrebleu.metrics import BLEU, CHRF

from litseq.quantize.report import machine
from litseq.runtime import Generator

TATOEBA = (
    "Sentence pairs of Tatoeba as manythings.org/anki gives them out, CC BY 2.0 (tatoeba.org and www.manythings.org/anki). "
    "The weights are offered under the same terms."
)
STORIES = "25 books of Project Gutenberg, in the public domain in the USA; the held-out book is The Lilac Fairy Book."
RECALL = "Conversations made by a program of this repository, benchmarks/experiments/recall.py; nothing to attribute."
REPEATS = 5


@dataclass(frozen=True)
class Entry:
    """A bundle: its recipe is `recipes/NAME.yaml`, `splits` are its files in the directory of the corpora."""

    name: str
    splits: dict[str, str]
    sections: Callable[["Entry", Generator, Path], list[str]]
    licence: str
    limits: str
    examples: tuple[str, ...]
    batch: str = "small"
    generated_by: str | None = None
    """A program of this repository that writes the data, given the directory."""

    def files(self, data: Path) -> list[Path]:
        return [] if self.generated_by else [data / file for file in self.splits.values()]

    def validation(self, data: Path) -> Path:
        return data / self.splits.get("test", self.splits["val"])

    def fit_arguments(self, data: Path) -> list[str]:
        return [part for split in ("train", "val") for part in (f"--data.{split}", str(data / self.splits[split]))]

    def recipe(self, training: Path) -> str:
        """How it was made, and what the training's log says."""
        return (
            f"`python exports/make.py {self.name} --data DIR` (`exports/recipes/{self.name}.yaml`){_trained(training)}."
        )

    def measure(self, generator: Generator, data: Path, recipe: str) -> list[str]:
        """The sections of the card behind what every card of litseq says."""
        return [
            "## Data and licence", "", self.licence, "",
            "## Recipe", "", recipe, "",
            *self.sections(self, generator, data),
            "## Limits", "", self.limits, "",
        ]  # fmt: skip


def translation(entry: Entry, generator: Generator, data: Path) -> list[str]:
    """BLEU and chrF of the test set, speed, and a few outputs."""
    lines = _lines(data / entry.splits["test"])
    sources, references = zip(*(line.split("\t")[:2] for line in lines), strict=True)
    outputs = [completion.text for completion in generator.generate(sources)]
    beams = [completion.text for completion in generator.generate(sources, num_beams=4)]
    bleu, chrf = BLEU(), CHRF()
    scores = [(name, bleu.corpus_score(texts, [references]), chrf.corpus_score(texts, [references]))
              for name, texts in (("greedy", outputs), ("4 beams", beams))]  # fmt: skip
    one = _seconds(lambda: [generator.generate([source]) for source in sources[:50]]) / 50
    many = _seconds(lambda: generator.generate(sources[:400])) / 400
    return [
        "## Quality", "",
        f"{len(sources):,} pairs of `{entry.splits['test']}`, this int8 bundle, onnxruntime:", "",
        "| | BLEU | chrF |", "|---|---|---|",
        *(f"| {name} | {b.score:.1f} | {c.score:.1f} |" for name, b, c in scores), "",
        f"BLEU `{bleu.get_signature()}`, chrF `{chrf.get_signature()}`.", "",
        "## Speed", "",
        f"{1000 * one:.1f} ms a sentence one by one, {1 / many:,.0f} sentences/s in batches of {generator.batch_size}, "
        f"{generator.threads} threads, {_here()}.", "",
        "## Examples", "", "| input | output |", "|---|---|",
        *(f"| {text} | {generator.generate([text])[0].text} |" for text in entry.examples), "",
    ]  # fmt: skip


def continuation(entry: Entry, generator: Generator, data: Path) -> list[str]:
    """Bits per byte and perplexity of the held-out text, speed, and a few continuations."""
    documents = [line for line in _lines(data / entry.splits["val"]) if line]
    ids = [generator.tokenizer.encode(text)[: generator.manifest.model.max_seq_len - 2] for text in documents]
    whole = [(text, row) for text, row in zip(documents, ids, strict=True) if generator.tokenizer.decode(row) == text][
        :500
    ]
    scores = generator.score(["" for _ in whole], [text for text, _ in whole])
    nats = -sum(score.score for score in scores)
    tokens, size = sum(len(score.logprobs) for score in scores), sum(len(text.encode()) for text, _ in whole)
    options = {"max_new_tokens": 60, "temperature": 0.8, "top_p": 0.95, "seed": 1}
    speed = 60 / _seconds(lambda: generator.generate([entry.examples[0]], max_new_tokens=60, min_new_tokens=60))
    return [
        "## Quality", "",
        f"{len(whole)} paragraphs of `{entry.splits['val']}`, a book that the training never saw, this int8 bundle: "
        f"{nats / math.log(2) / size:.3f} bits per byte, perplexity {math.exp(nats / tokens):.1f} a token.", "",
        "## Speed", "", f"{speed:,.0f} tokens/s, one text, {generator.threads} threads, {_here()}.", "",
        "## Examples", "", "`--temperature 0.8 --top-p 0.95 --seed 1 --max-new-tokens 60`", "",
        *(f"> **{text}**{generator.generate([text], **options)[0].text}\n" for text in entry.examples),
    ]  # fmt: skip


def recall(entry: Entry, generator: Generator, data: Path) -> list[str]:
    """Share of right answers by how many exchanges before the question they stood."""
    right: dict[int, list[bool]] = {}
    shown: list[str] = []
    for line in (data / entry.splits["test"]).read_text(encoding="utf-8").splitlines()[:300]:
        conversation = json.loads(line)
        turns = conversation["turns"]
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        for i, about in enumerate(conversation["about"]):
            if about is not None:
                answer = generator.chat(messages[: 2 * i + 1]).text
                right.setdefault(about["distance"], []).append(answer == turns[2 * i + 1])
                if not shown and about["distance"] >= 4:
                    shown = [f"> {m['role']}: {m['content']}  " for m in messages[: 2 * i + 1]]
                    shown.append(f"> **assistant: {answer}**")
    every = [one for some in right.values() for one in some]
    return [
        "## Quality", "",
        f"{len(every)} questions of unseen conversations about what was said in an earlier turn only, names, numbers and "
        f"orders that the training never saw, greedy, this int8 bundle: {sum(every) / len(every):.1%} right.", "",
        "| exchanges between | right |", "|---|---|",
        *(f"| {distance} | {sum(some) / len(some):.1%} of {len(some)} |" for distance, some in sorted(right.items())), "",
        "## Examples", "", *shown, "",
    ]  # fmt: skip


def _lines(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().splitlines()


def _seconds(run: Callable[[], object]) -> float:
    times = []
    run()
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def _here() -> str:
    """The machine that measures, which need not be the one that quantised."""
    here = machine()
    return f"{here['cpu']} ({' '.join(here['features'])}), onnxruntime {here['onnxruntime']}"


def _trained(training: Path) -> str:
    """What the log of the training says, where there is one."""
    try:
        with (training / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return ""
    steps = 1 + max(int(row["step"]) for row in rows)
    losses = [float(row["val/loss"]) for row in rows if row.get("val/loss")]
    return (
        f"; this one: {steps:,} optimizer steps, validation loss {losses[-1]:.3f}" if losses else f"; {steps:,} steps"
    )


_SHORT = "Short everyday sentences, as Tatoeba has them; a few million weights and one core of training. "
_EN = (
    "Tom is a good man.",
    "Where is the next train station?",
    "I would like to learn how to cook.",
    "The children are playing in the garden.",
    "If it rains tomorrow, we will stay at home.",
)


def _translator(name: str, pair: str) -> Entry:
    splits = {split: f"tatoeba.{pair}.{split}.tsv.gz" for split in ("train", "val", "test")}
    splits["val"] = f"tatoeba.{pair}.valid.tsv.gz"
    limits = _SHORT + (
        "Longer or formal text, rare words and names come out badly. The test set has no sentence of the training set but "
        "many near ones, so it is an easy one."
    )
    return Entry(name, splits, translation, TATOEBA, limits, _EN)


ENTRIES = {
    entry.name: entry
    for entry in (
        *(_translator(f"en-{to}{kind}", pair) for to, pair in (("de", "eng-deu"), ("fr", "eng-fra"))
          for kind in ("", "-decoder-only")),
        Entry(
            "stories",
            {"train": "stories-pd.train.txt.gz", "val": "stories-pd.valid.txt.gz"},
            continuation,
            STORIES,
            "Fairy-tale English of the 19th century, a paragraph at a time; it rambles, and it knows no facts.",
            ("Once upon a time there was a king", "The old woman took the child by the hand and", "In the dark forest"),
        ),
        Entry(
            "recall",
            {split: f"{split}.jsonl" for split in ("train", "val", "test")},
            recall,
            RECALL,
            "It knows nothing but how to repeat what it was told: a name, a number, an order. Other words are unknown to it.",
            (),
            generated_by="benchmarks/experiments/recall.py",
        ),
    )
}  # fmt: skip
