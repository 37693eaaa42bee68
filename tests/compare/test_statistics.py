"""The bootstrap against sacreBLEU's own, and intervals by hand."""

import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from litseq.compare.scoring import EXACT_MATCH, length_buckets, likelihood_rows, text_metrics, text_rows
from litseq.compare.statistics import compare, estimate, over_seeds, resampled_scores, resamples, summed


def corpus(seed, noise, count=60):
    words = ["the", "a", "dog", "cat", "man", "runs", "eats", "sees", "big", "red", "old", "house", "and"]
    truth, generator = random.Random(0), random.Random(seed)
    references = [" ".join(truth.choice(words) for _ in range(truth.randint(5, 12))) for _ in range(count)]
    return [
        " ".join(generator.choice(words) if generator.random() < noise else word for word in line.split())
        for line in references
    ], references


def test_bootstrap_is_sacrebleus(monkeypatch):
    (ours, references), (theirs, _) = corpus(1, 0.25), corpus(2, 0.32)
    monkeypatch.setenv("SACREBLEU_SEED", "12345")
    test = PairedTest(
        [("base", theirs), ("ours", ours)],
        {"BLEU": BLEU(), "chrF2": CHRF()},
        references=[references],
        test_type="bs",
        n_samples=200,
    )
    _, wanted = test()
    for metric, scorer in text_metrics(["13a"])[:2]:
        rows = [text_rows(metric, scorer, outputs, references) for outputs in (ours, theirs)]
        draws = resamples(len(references), 200)
        scores = [resampled_scores(one, metric.score, draws) for one in rows]
        values = [metric.score(one.sum(axis=0)) for one in rows]
        found = compare(values[:1], values[1:], scores[:1], scores[1:])
        name = "BLEU" if metric.name == "bleu" else "chrF2"
        base, other = wanted[name]
        assert values == pytest.approx([other.score, base.score])
        assert found.p_value == pytest.approx(other.p_value)
        interval = estimate(values[:1], scores[:1])
        assert (interval.high - interval.low) / 2 == pytest.approx(other.ci, rel=1e-3)
        assert found.interval.value == pytest.approx(other.score - base.score)
        assert metric.signature


def test_seeds_are_averaged_and_the_interval_over_seeds_is_students():
    assert over_seeds([1.0, 2.0]) is None
    interval = over_seeds([1.0, 2.0, 3.0])
    assert (interval.low, interval.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    rows = text_rows(EXACT_MATCH, None, ["a", "b", "c"], ["a", "x", "c"])
    scores = resampled_scores(rows, EXACT_MATCH.score, resamples(3, 100))
    found = estimate([200 / 3, 100 / 3], [scores, scores])
    assert found.value == pytest.approx(50)


@pytest.mark.parametrize(("count", "quantile"), [(11, 2.228), (12, 2.201), (16, 2.131), (31, 2.042), (101, 1.984)])
def test_students_quantile_with_many_seeds(count, quantile):
    values = [float(i % 2) for i in range(count)]
    interval = over_seeds(values)
    assert interval.high - interval.value == pytest.approx(quantile * np.std(values, ddof=1) / count**0.5, rel=2e-3)


def test_an_arm_against_itself_is_no_difference():
    scores = [np.arange(100.0)]
    found = compare([1.0], [1.0], scores, scores)
    assert not found.interval.excludes_zero
    assert (found.interval.low, found.interval.high) == (0, 0)


def test_bits_are_by_bytes_and_perplexity_by_tokens():
    rows = likelihood_rows([np.log(2) * 4, np.log(2) * 8], [2, 4], ["äb", "abcde"])
    assert rows["bits_per_byte"].tolist() == pytest.approx(np.array([[4, 3], [8, 5]]))
    assert rows["perplexity"].sum(axis=0)[1] == 6


def test_buckets_hold_every_item_once():
    texts = ["w " * n for n in (1, 1, 2, 3, 4, 5, 9, 9, 12)]
    inside = [i for _, indices in length_buckets(texts) for i in indices]
    assert sorted(inside) == list(range(len(texts)))
    assert length_buckets(["one two"] * 5) == [("2", [0, 1, 2, 3, 4])]


def test_lower_cased_bleu_is_sacrebleus():
    outputs, references = ["A Dog runs by ."], ["a dog Runs by ."]
    (plain, plain_scorer), (lower, lower_scorer) = text_metrics(["13a", "13a-lc"])[:2]
    assert (plain.label, lower.label, lower.name) == ("BLEU", "BLEU (13a-lc)", "bleu_13a-lc")
    assert "case:lc" in lower.signature
    assert plain.score(text_rows(plain, plain_scorer, outputs, references).sum(axis=0)) < 50
    assert lower.score(text_rows(lower, lower_scorer, outputs, references).sum(axis=0)) == pytest.approx(100)


def test_equal_arms_do_not_differ():
    scores = [np.array([1.0, 2.0, 3.0])]
    assert compare([2.0], [2.0], scores, scores).p_value == 1.0


def test_answers_of_one_conversation_are_drawn_together():
    # Answers of a conversation that are all alike say no more than one of them does.
    alone = np.array([[float(i % 3 == 0), 1.0] for i in range(40)])
    together = np.repeat(alone, 5, axis=0)
    drawn = summed(together, np.repeat(np.arange(40), 5).tolist())
    draws = resamples(40, 200)
    assert resampled_scores(drawn, EXACT_MATCH.score, draws) == pytest.approx(
        resampled_scores(alone, EXACT_MATCH.score, draws)
    )
