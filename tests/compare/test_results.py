"""Which metric decides where none is named, and what intervals are of."""

import math

import numpy as np
import pytest

from compare.small import small, write_pairs
from litseq.compare.results import _main_metric, _score, _test_results
from litseq.compare.scoring import BITS_PER_BYTE
from litseq.compare.statistics import estimate, resampled_scores, resamples


@pytest.mark.parametrize(
    ("references", "groups", "given", "expected"),
    [
        (["one two", "a b c d"], None, None, "bleu"),
        (["one two", "a b c"], None, None, "chrf"),  # BLEU is 0 whatever is generated
        (["one two", "a b c"], None, "exact_match", "exact_match"),
        (["one two", "a b c d"], ["turn 1", "turn 2"], None, "bits_per_byte"),
    ],
)
def test_the_metric_that_decides(tmp_path, references, groups, given, expected):
    write_pairs(tmp_path)
    answers = {"generated": True, "groups": groups, "references": references}
    assert _main_metric(small(tmp_path, metric=given), {"arm": {1: {"test": answers}}}) == expected


def test_conversations_are_resampled_whole(tmp_path):
    # Two arms, 25 conversations of 4 answers; what an answer costs is a matter of its conversation alone.
    write_pairs(tmp_path)
    costs = np.repeat(np.random.default_rng(0).uniform(1, 9, 25), 4).tolist()
    shared = {"texts": ["x"] * 100, "references": ["abcd"] * 100, "groups": [f"turn {i % 4 + 1}" for i in range(100)]}
    shared |= {"outputs": ["a"] * 100, "tokens": [1] * 100, "generated": True, "too_long": 0}
    outputs = {"a": {1: {"test": shared | {"nats": costs}}}, "b": {1: {"test": shared | {"nats": [5.0] * 100}}}}
    comparison = small(tmp_path, resamples=200)
    scored = _score(comparison, outputs, "test")
    found = _test_results(comparison, outputs, "test", scored, "bits_per_byte")
    assert found["resampled"] == {"unit": "conversations", "count": 25}
    rows = np.array([[4 * cost / math.log(2), 16.0] for cost in costs[::4]])
    scores = resampled_scores(rows, BITS_PER_BYTE.score, resamples(25, 200))
    wanted = estimate([BITS_PER_BYTE.score(rows.sum(axis=0))], [scores])
    score = found["scores"]["bits_per_byte"]["a"]
    assert (score["value"], score["low"], score["high"]) == pytest.approx((wanted.value, wanted.low, wanted.high))
    # A part of them by turn has one answer of each conversation.
    assert [bucket["sentences"] for bucket in found["by_length"]] == [25] * 4
