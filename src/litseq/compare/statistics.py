"""Scores as sums over sentences, and what can be said of their differences.

A corpus score is a function of sums: of n-gram counts for BLEU and chrF, of matches and sentences for exact match, of bits
and bytes for bits per byte. So a test set is an array [sentences, K], and a bootstrap resample is other sums of its rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[Floats], float]
"""From the sums of some sentences' rows to the score."""

BOOTSTRAP_SEED = 12345
"""sacreBLEU's own."""

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % with 1, 2, ... degrees of freedom."""
_NORMAL_975 = 1.959964


@dataclass(frozen=True)
class Interval:
    """A number, and where 95 % of the resamples lie."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether all of it is on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """How one arm scores against another, on the same sentences and with the same seeds."""

    interval: Interval
    """Over sentences, scores averaged over seeds first."""
    p_value: float
    """sacreBLEU's paired bootstrap test, of the scores averaged over seeds."""
    by_seed: list[float]
    seed_interval: Interval | None
    """Student's t over seeds; None with fewer than three, of which it says next to nothing."""


def resamples(sentences: int, count: int, seed: int = BOOTSTRAP_SEED) -> NDArray[np.int64]:
    """[count, sentences]: which sentences each resample is made of, drawn as sacreBLEU draws them."""
    return np.random.default_rng(seed).choice(sentences, size=(count, sentences), replace=True)


def summed(rows: Floats, parts: Sequence[int]) -> Floats:
    """The rows of each part together: what is drawn where sentences are not independent, as answers of one conversation.

    Args:
        rows: What the sentences add, [sentences, K].
        parts: Which part each sentence is of.
    """
    names, places = np.unique(np.asarray(parts), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, places, rows)
    return sums


def resampled_scores(rows: Floats, score: Score, draws: NDArray[np.int64]) -> Floats:
    """The score of each resample.

    Args:
        rows: What the sentences add, [sentences, K].
        score: From sums to a score.
        draws: See `resamples`.
    """
    return np.array([score(rows[draw].sum(axis=0)) for draw in draws])


def estimate(by_seed: Sequence[float], scores: Sequence[Floats]) -> Interval:
    """The mean score over seeds, and its interval over sentences.

    Args:
        by_seed: The score of each seed.
        scores: The `resampled_scores` of each seed, of the same draws.
    """
    return Interval(float(np.mean(by_seed)), *_middle(np.mean(scores, axis=0)))


def compare(
    by_seed: Sequence[float], others_by_seed: Sequence[float], scores: Sequence[Floats], other_scores: Sequence[Floats]
) -> Difference:
    """An arm minus another, of the same seeds and the same draws; arguments as in `estimate`."""
    differences = [a - b for a, b in zip(by_seed, others_by_seed, strict=True)]
    mean = float(np.mean(differences))
    resampled = np.mean(scores, axis=0) - np.mean(other_scores, axis=0)
    # As sacreBLEU's paired bootstrap: how often is chance alone as large? The 1 keeps it above zero.
    apart = np.abs(resampled)
    beyond = int((apart - apart.mean() >= abs(mean)).sum())  # with equality, or equal arms would differ for certain
    return Difference(
        Interval(mean, *_middle(resampled)), (beyond + 1) / (len(resampled) + 1), differences, over_seeds(differences)
    )


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of a mean over seeds; None with fewer than three."""
    count = len(values)
    if count < 3:
        return None
    half = _student(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return Interval(mean, mean - half, mean + half)


def _student(freedom: int) -> float:
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    z = _NORMAL_975  # and the first terms of its expansion, which with so many degrees are right to the third digit
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _middle(scores: Floats) -> tuple[float, float]:
    """The bounds of the middle 95 %, as sacreBLEU cuts them."""
    ordered = np.sort(scores)
    cut = len(ordered) // 40
    return float(ordered[cut]), float(ordered[len(ordered) - cut - 1])
