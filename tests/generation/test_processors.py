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


@pytest.mark.parametrize("k", [1, 2, 7, 50, 400])
def test_top_k(logits, k):
    logits[2, :10] = logits[2].max()  # ties at the border stay
    wanted = reference("TopKLogitsWarper", logits, CONTEXTS, k)
    processors.keep_top_k(logits, k)
    np.testing.assert_array_equal(logits, wanted)


@pytest.mark.parametrize("p", [0.01, 0.3, 0.8, 0.99, 1.0])
def test_top_p(logits, p):
    wanted = reference("TopPLogitsWarper", logits, CONTEXTS, p) if p < 1 else logits.copy()
    processors.keep_top_p(logits, p)
    np.testing.assert_array_equal(logits, wanted)


def test_top_p_by_its_definition():
    logits = np.log(np.array([[0.5, 0.2, 0.2, 0.1]], np.float32))
    processors.keep_top_p(logits, 0.6)
    assert np.isfinite(logits).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.5, 1.0])
def test_min_p(logits, min_p):
    wanted = reference("MinPLogitsWarper", logits, CONTEXTS, min_p)
    processors.keep_min_p(logits, min_p)
    np.testing.assert_array_equal(logits, wanted)


def test_filters_in_a_row_leave_forbidden_tokens_forbidden(logits):
    processors.keep_top_k(logits, 5)
    processors.keep_top_p(logits, 0.9)
    processors.keep_min_p(logits, 0.05)
    assert (np.isfinite(logits).sum(-1) >= 1).all()
    assert (np.isfinite(logits).sum(-1) <= 5).all()


def test_sample_inverts_the_cumulated_probabilities():
    row = np.log(np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], np.float64) + 1e-300).astype(np.float32)
    row[[0, 2, 5]] = -np.inf
    logits = np.stack([row] * 6)
    found = processors.sample(logits, [0.0, 0.2499, 0.2501, 0.7499, 0.7501, np.nextafter(1, 0)])
    assert found.tolist() == [1, 1, 3, 3, 4, 4]


def test_rows_are_filtered_alone(logits):
    """A row gives the same result whoever stands beside it."""

    def filtered(rows):
        rows = rows.copy()
        processors.apply_temperature(rows, 0.7)
        processors.keep_top_k(rows, 20)
        processors.keep_top_p(rows, 0.8)
        processors.keep_min_p(rows, 0.01)
        return rows, processors.softmax(rows), processors.log_normalizer(rows)

    together = filtered(logits)
    for i in range(len(logits)):
        for whole, alone in zip(together, filtered(logits[i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[i : i + 1], alone)


def test_log_normalizer(logits):
    wanted = np.log(np.exp(logits.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(processors.log_normalizer(logits), wanted, rtol=1e-6)
