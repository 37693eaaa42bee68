"""Every processor against its definition, and against the logits processors of `transformers` where it is installed."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("temperature", [0.3, 1.7])
def test_temperature(logits, temperature):
    wanted = reference("TemperatureLogitsWarper", logits, CONTEXTS, temperature)
    processors.apply_temperature(logits, temperature)
    np.testing.assert_allclose(logits, wanted, rtol=1e-6)


def test_log_normalizer(logits):
    wanted = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(processors.log_normalizer(logits), wanted, rtol=1e-6)
