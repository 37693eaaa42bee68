"""Every processor against its definition, and against the logits processors of `transformers` where it is installed."""

import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.generation import processors


@pytest.fixture
def logits():
    return np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32) * 3


def reference(name, logits, ids, *args):
    """What `transformers` makes of `logits` [n, V] with the contexts `ids` [n, L]."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.generation.logits_process")
    processor = getattr(module, name)(*args)
    return processor(torch.tensor(ids), torch.tensor(logits.copy())).numpy()


CONTEXTS = np.random.default_rng(1).integers(0, 8, (6, 20))


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_repetition_penalty(logits, penalty):
    wanted = reference("RepetitionPenaltyLogitsProcessor", logits, CONTEXTS, penalty)
    for row, context in zip(logits, CONTEXTS, strict=True):
        processors.penalize_repetition(row, context, penalty)
    np.testing.assert_array_equal(logits, wanted)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 30])
def test_no_repeat_ngram(logits, size):
    wanted = reference("NoRepeatNGramLogitsProcessor", logits, CONTEXTS, size)
    for row, context in zip(logits, CONTEXTS, strict=True):
        processors.ban_repeated_ngrams(row, context, size)
    np.testing.assert_array_equal(logits, wanted)


@pytest.mark.parametrize("words", [[[4]], [[3, 5], [5, 7, 2]], [[1], [2, 2], [9, 9, 9, 9]]])
def test_bad_words(logits, words):
    wanted = reference("NoBadWordsLogitsProcessor", logits, CONTEXTS, words)
    for row, context in zip(logits, CONTEXTS, strict=True):
        processors.ban_words(row, context, words)
    np.testing.assert_array_equal(logits, wanted)


def test_a_bad_word_is_banned_behind_its_beginning_only():
    row = np.zeros(10, np.float32)
    processors.ban_words(row, np.array([7, 3, 5]), [[3, 5, 8], [5, 9], [3, 4], [1, 7, 3, 5, 2], [6]])
    assert np.flatnonzero(np.isneginf(row)).tolist() == [6, 8, 9]


def test_allowing_only_some_tokens():
    row = np.arange(5, dtype=np.float32)
    processors.allow_only(row, [1, 3])
    assert row.tolist() == [-np.inf, 1, -np.inf, 3, -np.inf]
    for tokens in ([], [5], [-1], ["a"], [[1], [2, 3]], 3):
        with pytest.raises(UsageError, match="prefix_allowed_tokens gave"):
            processors.allow_only(row, tokens)


def test_log_normalizer(logits):
    wanted = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(processors.log_normalizer(logits), wanted, rtol=1e-6)
