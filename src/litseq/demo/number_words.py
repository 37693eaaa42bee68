"""Number words, English -> German: a language pair that a package can speak without a download."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from num2words import num2words

LARGEST = 999_999


@dataclass(frozen=True)
class NumberPairs:
    """Three files of `english<tab>german`, and the test pairs; no number is in two of them."""

    train: Path
    val: Path
    test: Path
    test_pairs: list[tuple[str, str]]


def number_pair(number: int) -> tuple[str, str]:
    """One number in English and in German: 42007 -> forty-two thousand and seven, zweiundvierzigtausendsieben."""
    return num2words(number, lang="en"), num2words(number, lang="de")


def draw_numbers(count: int, seed: int) -> list[int]:
    """Draw `count` distinct numbers from 0 to 999,999 in random order; any slices of them are disjoint sets."""
    return random.Random(seed).sample(range(LARGEST + 1), count)


def write_number_pairs(directory: Path, numbers: Iterable[int], *, val: int, test: int) -> NumberPairs:
    """Write `test.tsv`, `val.tsv` and `train.tsv`, split by number, into `directory`.

    Args:
        directory: An existing directory.
        numbers: Distinct numbers; wrap them in a progress bar to watch, spelling them takes a while.
        val: How many of them to validate on.
        test: How many of them to test on; the rest is for training.
    """
    pairs = [number_pair(number) for number in numbers]
    parts = {"test": pairs[:test], "val": pairs[test : test + val], "train": pairs[test + val :]}
    files = {name: directory / f"{name}.tsv" for name in parts}
    for name, part in parts.items():
        text = "".join(f"{english}\t{german}\n" for english, german in part)
        files[name].write_text(text, encoding="utf-8")
    return NumberPairs(files["train"], files["val"], files["test"], parts["test"])
