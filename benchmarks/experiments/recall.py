"""Conversations in which an answer stands only in an earlier turn: names, numbers and orders.

    python benchmarks/experiments/recall.py OUT [--train 20000] [--val 500] [--test 600] [--distance 4] [--seed 0]

writes `train.jsonl`, `val.jsonl` and `test.jsonl`. The user tells three things, talks of something else, and asks
for each of them once, 1 to `--distance` exchanges after it was told; the assistant never repeats a thing before that:

    user: My name is Ada Byron.         assistant: OK.
    user: I saw a green kite in Rome.   assistant: OK.
    user: What is my name?              assistant: You are Ada Byron.

A value is made of parts (first and last name; tens and units; a dish and a drink). Every part occurs in training,
but no *value* of validation or test does, and no small talk of theirs either: a model that has learned the training
values by heart knows none of these. Without the earlier turns there is nothing to go by but the number of values.

A line has besides its `turns` an entry of `about` for each exchange: null, or `{"kind", "distance"}` where something is
asked for.
"""

import argparse
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

FIRST = [
    "Ada",
    "Alan",
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Iris",
    "John",
    "Kate",
    "Leo",
    "Mary",
    "Nina",
    "Oscar",
    "Paul",
    "Rosa",
    "Tom",
]
LAST = [
    "Baker",
    "Byron",
    "Carter",
    "Cook",
    "Curie",
    "Darwin",
    "Euler",
    "Fisher",
    "Gauss",
    "Hill",
    "Jones",
    "Klein",
    "Lopez",
    "Moore",
    "Noble",
    "Price",
    "Rossi",
    "Smith",
    "Turing",
    "Wood",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
UNITS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DISHES = ["soup", "salad", "pizza", "burgers", "pie", "steak", "curry", "noodles", "rice", "fish", "beans", "eggs"]
DRINKS = ["tea", "coffee", "juice", "beer", "lemonade", "milk", "water", "cocoa", "cider", "wine", "soda", "mead"]
COLOURS = ["red", "green", "blue", "white", "black", "yellow", "brown", "pink", "grey", "orange"]
THINGS = ["kite", "horse", "boat", "train", "bridge", "tower", "garden", "market", "statue", "lamp", "dog", "bicycle"]
PLACES = ["Rome", "Paris", "Berlin", "Vienna", "Oslo", "Cairo", "Lima", "Tokyo", "Madrid", "Dublin", "Athens", "Prague"]

TOLD = {
    "name": ("My name is {}.", "I am {}.", "You can call me {}."),
    "number": ("My number is {}.", "Write down the number {}.", "The code is {}."),
    "order": ("I would like {}.", "Please bring me {}.", "We take {}."),
}
ASKED = {
    "name": ("What is my name?", "Who am I?", "Do you know my name?"),
    "number": ("What is my number?", "Which number was it?", "Do you know the code?"),
    "order": ("What did I order?", "What was my order?", "What will you bring me?"),
}
THANKS = "OK."
ANSWER = {"name": "You are {}.", "number": "It is {}.", "order": "You ordered {}."}
SMALL_TALK = ("I saw a {} in {}.", "There is a {} in {}.")


def part_of(value: str) -> str:
    """Which split a value belongs to, the same in every run: test 20 %, validation 10 %, training the rest."""
    place = zlib.crc32(value.encode()) % 10
    return "test" if place < 2 else "val" if place == 2 else "train"


def draw(make: Callable[[], str], part: str) -> str:
    """A value of a split."""
    while part_of(value := make()) != part:
        pass
    return value


def values(rng: random.Random) -> dict[str, Callable[[], str]]:
    """How a value of each kind is drawn."""
    return {
        "name": lambda: f"{rng.choice(FIRST)} {rng.choice(LAST)}",
        "number": lambda: f"{rng.choice(TENS)} {rng.choice(UNITS)}",
        "order": lambda: f"{rng.choice(DISHES)} and {rng.choice(DRINKS)}",
    }


def arrange(rng: random.Random, kinds: list[str], farthest: int) -> tuple[dict[int, str], dict[int, tuple[str, int]]]:
    """Exchanges in which things are told, and in which they are asked for with the distance; none is both."""
    while True:
        told, asked = {}, {}
        for kind in kinds:
            distance = rng.randint(1, farthest)
            start = rng.randint(0, 2)
            told[start] = kind
            asked[start + distance] = (kind, distance)
        if len(told) == len(asked) == len(kinds) and not told.keys() & asked.keys():
            return told, asked


def conversation(rng: random.Random, part: str, farthest: int) -> dict[str, list]:
    """One line."""
    kinds = rng.sample(list(TOLD), 3)
    told, asked = arrange(rng, kinds, farthest)
    drawn = {kind: draw(make, part) for kind, make in values(rng).items()}
    turns, about = [], []
    for i in range(max(asked) + 1):
        found = None
        if i in told:
            kind = told[i]
            exchange = [rng.choice(TOLD[kind]).format(drawn[kind]), THANKS]
        elif i in asked:
            kind, distance = asked[i]
            exchange = [rng.choice(ASKED[kind]), ANSWER[kind].format(drawn[kind])]
            found = {"kind": kind, "distance": distance}
        else:
            thing = draw(lambda: f"{rng.choice(COLOURS)} {rng.choice(THINGS)} {rng.choice(PLACES)}", part)
            seen, _, place = thing.rpartition(" ")
            exchange = [rng.choice(SMALL_TALK).format(seen, place), THANKS]
        turns += exchange
        about.append(found)
    return {"turns": turns, "about": about}


def write(out: Path, counts: dict[str, int], farthest: int, seed: int) -> None:
    """All three files."""
    out.mkdir(parents=True, exist_ok=True)
    for part, count in counts.items():
        rng = random.Random(f"{seed} {part}")
        lines = (json.dumps(conversation(rng, part, farthest)) for _ in range(count))
        (out / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    for part, count in (("train", 20000), ("val", 500), ("test", 600)):
        parser.add_argument(f"--{part}", type=int, default=count, help=f"conversations (default {count})")
    parser.add_argument("--distance", type=int, default=4, help="exchanges from telling to asking at most (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.out, {"train": args.train, "val": args.val, "test": args.test}, args.distance, args.seed)


if __name__ == "__main__":
    main()
