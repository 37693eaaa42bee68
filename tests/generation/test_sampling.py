"""The filters against the logits warpers of `transformers`, and the draw against the probabilities."""

import numpy as np
import pytest

from litseq.generation import GenerationOptions, sampling
from litseq.generation.sampling import filtered, sample

UNIFORMS = (np.arange(4000) + 0.5) / 4000


def some_logits(vocab_size, seed=0, scale=3.0):
    return (np.random.default_rng(seed).standard_normal(vocab_size) * scale).astype(np.float32)


def reference(logits, top_k=None, top_p=None, min_p=None):
    """The tokens that `transformers` leaves, applying its warpers in its order."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.generation.logits_process")
    scores, ids = torch.tensor(logits[None].copy()), torch.zeros(1, 1, dtype=torch.long)
    if top_k is not None:
        scores = module.TopKLogitsWarper(top_k)(ids, scores)
    if top_p is not None and top_p < 1:
        scores = module.TopPLogitsWarper(top_p)(ids, scores)
    if min_p is not None:
        scores = module.MinPLogitsWarper(min_p)(ids, scores)
    return np.flatnonzero(np.isfinite(scores[0].numpy()))


@pytest.mark.parametrize("vocab_size", [10, 64, 100, 3001])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 9},
        {"top_k": 50},
        {"top_k": 5000},
        {"top_p": 0.01},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 0.9999},
        {"top_p": 1.0},
        {"min_p": 0.0},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"top_k": 40, "top_p": 0.8},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.02},
        {"top_p": 0.9, "min_p": 0.1},
    ],
)
def test_the_same_tokens_are_allowed(vocab_size, scale, options):
    logits = some_logits(vocab_size, scale=scale)
    names = {"top_k": None, "top_p": None, "min_p": None} | options
    np.testing.assert_array_equal(filtered(logits, **names), reference(logits, **options))


def test_tokens_equal_to_the_k_th_stay():
    logits = some_logits(200)
    logits[100:110] = logits.max() + 1
    assert filtered(logits, 4, None, None).tolist() == list(range(100, 110))


def test_forbidden_tokens_stay_forbidden():
    logits = some_logits(300)
    logits[::2] = -np.inf
    options = GenerationOptions(top_k=200, top_p=0.999, temperature=2.0)
    assert all(sample(logits, options, float(u)) % 2 for u in UNIFORMS[::40])
    assert all(sample(logits, GenerationOptions(temperature=2.0), float(u)) % 2 for u in UNIFORMS[::40])


@pytest.mark.parametrize("vocab_size", [5, 64, 200, 1000])
@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 20}, {"top_p": 0.8, "temperature": 1.5}])
def test_draws_follow_the_probabilities(vocab_size, options):
    logits = some_logits(vocab_size, seed=1)
    chosen = GenerationOptions(**options)
    counts = np.bincount([sample(logits, chosen, float(u)) for u in UNIFORMS], minlength=vocab_size) / len(UNIFORMS)
    scaled = (logits / (chosen.temperature or 1.0)).astype(np.float64)
    allowed = filtered(scaled.astype(np.float32), chosen.top_k, chosen.top_p, chosen.min_p)
    wanted = np.zeros(vocab_size)
    wanted[allowed] = np.exp(scaled[allowed] - scaled.max())
    # Evenly spread uniforms hit every token to within one draw at each of its ends.
    np.testing.assert_allclose(counts, wanted / wanted.sum(), atol=2 / len(UNIFORMS))


@pytest.mark.parametrize("draw", [sampling._draw, sampling._draw_from_all])
def test_no_draw_hits_a_weight_of_zero(draw):
    for size in (1, 5, 64, 65, 130, 640):
        weights = np.zeros(size, np.float32)
        heavy = sorted({0, size // 2, size - 1})
        weights[heavy] = 0.25
        ends = [0.0, 0.1, 1 / 3, 0.5, 2 / 3, 0.999, float(np.nextafter(1, 0))]
        assert {draw(weights, u) for u in ends} == set(heavy)
        weights[heavy[1:]] = 0
        assert {draw(weights, u) for u in ends} == {0}


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-60])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_the_lower_the_temperature_the_more_it_is_greedy(temperature, filters):
    row = np.array([300.0, -np.inf, 400.0, -5.0, 399.0], np.float32)
    options = GenerationOptions(temperature=temperature, **filters)
    assert [sample(row.copy(), options, u) for u in (0.0, 0.5, 0.999)] == [2, 2, 2]


def test_a_row_with_nothing_allowed_does_not_fail():
    assert sample(np.full(9, -np.inf, np.float32), GenerationOptions(temperature=1.0), 0.5) == 0
    assert 0 <= sample(np.full(9, np.nan, np.float32), GenerationOptions(top_k=3), 0.5) < 9
