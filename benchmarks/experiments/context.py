"""What a chatbot knows of a conversation: the tables of `docs/experiments/` from a finished `litseq compare`.

    python benchmarks/experiments/context.py RUN TEST.jsonl [--sample 600] [--threads 1]

RUN is the `out` of a comparison of conversations, TEST.jsonl its first test set. For every arm (mean over seeds):

- accuracy (exact match) by the distance of the turn that is needed, where the lines say so (`about`, see `recall.py`);
- perplexity by the turn of the answer;
- tokens that an epoch of training reads: the cost of repeating the history;
- the perturbation control: the same answers with the earlier exchanges shuffled, dropped, or taken from another
  conversation. A model that uses the history suffers; one that is merely fed it does not (Sankar et al. 2019,
  https://aclanthology.org/P19-1004).

Writes RUN/context.json and prints Markdown.
"""

import argparse
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litseq.compare.files import OUTPUTS, PLAN, read_json, write_json
from litseq.data.lines import BadLines, read_lines
from litseq.data.sources import json_records
from litseq.runtime import Generator

LAST_TURN = 6
Exchange = tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """An answer of a test conversation."""

    earlier: tuple[Exchange, ...]
    question: str
    answer: str
    about: dict[str, Any] | None

    @property
    def turn(self) -> int:
        """1 for the first answer of a conversation."""
        return len(self.earlier) + 1

    @property
    def told(self) -> int | None:
        """The earlier exchange that holds the answer."""
        return None if self.about is None else len(self.earlier) - self.about["distance"]


def read_answers(path: Path) -> list[Answer]:
    """Every answer of a file, in the order in which `litseq compare` asks for them."""
    found = []
    for _, record in json_records(str(path), read_lines(str(path)), BadLines("raise")):
        turns, about = record["turns"], record.get("about")
        exchanges = list(zip(turns[::2], turns[1::2], strict=False))
        for i, (question, answer) in enumerate(exchanges):
            found.append(Answer(tuple(exchanges[:i]), question, answer, about[i] if about else None))
    return found


# The perturbations: what stands before the question instead of the earlier exchanges; None where it does not apply.

Perturbation = Callable[[Answer, random.Random, Sequence[Answer]], tuple[Exchange, ...] | None]


def shuffled(answer: Answer, rng: random.Random, _: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """Another order."""
    if len(set(answer.earlier)) < 2:
        return None
    order = list(answer.earlier)
    while tuple(order) == answer.earlier:
        rng.shuffle(order)
    return tuple(order)


def without(place: int, answer: Answer) -> tuple[Exchange, ...]:
    """One exchange left out."""
    return answer.earlier[:place] + answer.earlier[place + 1 :]


def needed_dropped(answer: Answer, rng: random.Random, _: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """Without the exchange that holds the answer."""
    return None if answer.told is None else without(answer.told, answer)


def other_dropped(answer: Answer, rng: random.Random, _: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """Without one that does not."""
    others = [i for i in range(len(answer.earlier)) if i != answer.told]
    return without(rng.choice(others), answer) if answer.told is not None and others else None


def last_only(answer: Answer, rng: random.Random, _: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """The newest earlier exchange alone."""
    return answer.earlier[-1:] if len(answer.earlier) > 1 else None


def all_dropped(answer: Answer, rng: random.Random, _: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """The question alone."""
    return ()


def foreign(answer: Answer, rng: random.Random, everything: Sequence[Answer]) -> tuple[Exchange, ...] | None:
    """As many exchanges of another conversation; None where no other one is as long."""
    others = [other.earlier for other in everything if len(other.earlier) >= len(answer.earlier)]
    others = [earlier for earlier in others if earlier[0] != answer.earlier[0]]
    return rng.choice(others)[: len(answer.earlier)] if others else None


RECALL: dict[str, Perturbation] = {
    "as it was": lambda answer, *_: answer.earlier,
    "earlier exchanges shuffled": shuffled,
    "an exchange dropped that is not needed": other_dropped,
    "the needed exchange dropped": needed_dropped,
    "all earlier exchanges dropped": all_dropped,
    "earlier exchanges of another conversation": foreign,
}
OPEN: dict[str, Perturbation] = {
    "as it was": lambda answer, *_: answer.earlier,
    "earlier exchanges shuffled": shuffled,
    "all but the newest exchange dropped": last_only,
    "all earlier exchanges dropped": all_dropped,
    "earlier exchanges of another conversation": foreign,
}


def messages(earlier: Iterable[Exchange], question: str) -> list[dict[str, str]]:
    """A conversation up to its question."""
    turns = [text for exchange in earlier for text in exchange] + [question]
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def control(generator: Generator, answers: Sequence[Answer], sample: int) -> dict[str, dict[str, float]]:
    """Perplexity, and accuracy where answers can be right or wrong, under each perturbation."""
    asked = [a for a in answers if (a.about is not None if answers_marked(answers) else a.turn >= 3)]
    rng = random.Random(0)
    chosen = rng.sample(asked, min(sample, len(asked)))
    long = [a for a in answers if a.earlier]
    found = {}
    for name, perturb in (RECALL if answers_marked(answers) else OPEN).items():
        kept = [(a, earlier) for a in chosen if (earlier := perturb(a, rng, long)) is not None]
        prompts = [
            generator.chat_prompt(messages(earlier, a.question), max_new_tokens=64).token_ids for a, earlier in kept
        ]
        scores = generator.score(prompts, [a.answer for a, _ in kept])
        tokens = sum(len(score.token_ids) for score in scores)
        row = {"answers": len(kept), "perplexity": math.exp(-sum(score.score for score in scores) / tokens)}
        if answers_marked(answers):
            outputs = generator.generate(prompts, max_new_tokens=24)
            row["accuracy"] = sum(o.text == a.answer for o, (a, _) in zip(outputs, kept, strict=True)) / len(kept)
        found[name] = row
    return found


def answers_marked(answers: Sequence[Answer]) -> bool:
    """Whether lines say which turn an answer needs."""
    return any(a.about is not None for a in answers)


def tokens_per_epoch(plan: dict[str, Any]) -> dict[str, int]:
    """What the training set is to this arm: examples, tokens read, tokens learned."""
    from litseq.compare.building import build_data, build_module
    from litseq.compare.flops import Tokens
    from litseq.compare.train import prepare

    data = build_data(plan["data"]["class_path"], plan["data"]["init_args"])
    prepare(build_module(plan["class_path"], plan["init_args"]), data)
    loader, tokens = data.train_dataloader(), Tokens()
    for batch in loader:
        tokens.add(batch)
    return {"examples": len(loader.dataset), "tokens": tokens.read, "learned": tokens.labels}


def by(answers: Sequence[Answer], outputs: dict[str, Any], key: Callable[[Answer], Any]) -> dict[str, dict[str, float]]:
    """Accuracy and perplexity in groups."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for a, output, nats, tokens in zip(answers, outputs["outputs"], outputs["nats"], outputs["tokens"], strict=True):
        if (group := key(a)) is not None:
            sums[str(group)] = [
                x + y for x, y in zip(sums[str(group)], (1, output == a.answer, nats, tokens), strict=True)
            ]
    return {
        group: {"answers": n, "accuracy": right / n, "perplexity": math.exp(nats / max(tokens, 1))}
        for group, (n, right, nats, tokens) in sorted(sums.items())
    }


def measure(run: Path, test: Path, sample: int, threads: int) -> dict[str, Any]:
    """Everything, by arm and seed."""
    answers = read_answers(test)
    found: dict[str, Any] = {}
    for result in sorted(run.glob("runs/*/seed-*/result.json")):
        directory = result.parent
        plan = read_json(directory / PLAN)
        outputs = next(iter(read_json(directory / OUTPUTS).values()))
        if outputs["references"] != [a.answer for a in answers]:
            raise SystemExit(f"{test} is not what {directory} was tested on")
        found.setdefault(plan["arm"], {})[str(plan["seed"])] = {
            "distance": by(answers, outputs, lambda a: a.about and a.about["distance"]),
            "kind": by(answers, outputs, lambda a: a.about and a.about["kind"]),
            "turn": by(answers, outputs, lambda a: f"{a.turn}" if a.turn < LAST_TURN else f"{LAST_TURN}+"),
            "epoch": tokens_per_epoch(plan),
            "control": control(Generator.from_bundle(directory / "bundle", threads=threads), answers, sample),
        }
    return found


def table(found: dict[str, Any], part: str, value: str, head: str, style: str) -> list[str]:
    """One part as Markdown, arms side by side, the mean over seeds."""
    arms = list(found)
    first = next(iter(next(iter(found.values())).values()))[part]
    lines = [f"| {head} | " + " | ".join(arms) + " |", "|---|" + "---:|" * len(arms)]
    for row in first:
        cells = []
        for arm in arms:
            values = [seed[part][row][value] for seed in found[arm].values()]
            cells.append(format(sum(values) / len(values), style))
        count = f" ({first[row]['answers']:.0f})" if "answers" in first[row] else ""
        lines.append(f"| {row}{count} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def markdown(found: dict[str, Any]) -> str:
    """All tables."""
    first = next(iter(next(iter(found.values())).values()))
    lines: list[str] = []
    if first["distance"]:
        lines += ["Accuracy by distance:", "", *table(found, "distance", "accuracy", "exchanges back (answers)", ".3f")]
        lines += ["Accuracy by kind:", "", *table(found, "kind", "accuracy", "kind (answers)", ".3f")]
        lines += ["Accuracy when the history is changed:", ""]
        lines += table(found, "control", "accuracy", "history (answers)", ".3f")
    lines += ["Perplexity by turn:", "", *table(found, "turn", "perplexity", "turn (answers)", ".3f")]
    lines += ["Perplexity when the history is changed:", ""]
    lines += table(found, "control", "perplexity", "history (answers)", ".3f")
    arms = list(found)
    lines += ["An epoch:", "", "| | " + " | ".join(arms) + " |", "|---|" + "---:|" * len(arms)]
    for name in ("examples", "tokens", "learned"):
        lines.append(
            f"| {name} | " + " | ".join(f"{next(iter(found[a].values()))['epoch'][name]:,}" for a in arms) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--sample", type=int, default=600, help="answers of the perturbation control (default 600)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    found = measure(args.run, args.test, args.sample, args.threads)
    write_json(args.run / "context.json", found)
    print(markdown(found))


if __name__ == "__main__":
    main()
