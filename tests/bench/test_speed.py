import itertools
from types import SimpleNamespace

import pytest

from litseq.bench import bench
from litseq.bench.limits import Limits
from litseq.bench.weights import decoder_weights
from litseq.bundle import open_bundle
from litseq.errors import UsageError
from runtime.fixtures import FIXTURES, fixture_path


@pytest.fixture(autouse=True)
def known_limits(monkeypatch):
    known = Limits(1, 10e9, 100e9, 400e9)
    monkeypatch.setattr("litseq.bench.speed.measure_limits", lambda threads: known)
    return known


@pytest.mark.parametrize("name", FIXTURES)
def test_every_architecture_is_measured(name):
    told = []
    result = bench(
        fixture_path(name), batch_sizes=[1, 3], lengths=[4, 9], new_tokens=3, repeats=1, threads=1, progress=told.append
    )
    assert [(p.batch, p.length) for p in result.points] == [(1, 4), (3, 4), (1, 9), (3, 9)]
    assert "batch 3, length 9" in told
    for point in result.points:
        assert (point.encoder_seconds is not None) == (name == "tiny-encoder-decoder")
        assert point.tokens_per_second == pytest.approx(point.batch / point.step_seconds)
        assert point.step_share > 0
        assert point.prompt_share > 0


def test_a_step_is_compared_with_reading_its_weights_and_caches(known_limits):
    result = bench(fixture_path("tiny-decoder-only"), batch_sizes=[1], lengths=[10], new_tokens=4, repeats=1, threads=1)
    (point,) = result.points
    seconds = (result.step_bytes + 12 * result.cache_bytes) / known_limits.bandwidth
    assert point.step_bound == "memory"
    assert point.step_share == pytest.approx(seconds / point.step_seconds)


def test_a_prompt_is_compared_with_what_it_multiplies(monkeypatch):
    """All its tokens with the layers, and its last one alone with the output projection, the largest matrix of all."""
    slow = Limits(1, 1e15, 1e6, 1e6)
    monkeypatch.setattr("litseq.bench.speed.measure_limits", lambda threads: slow)
    path = fixture_path("tiny-decoder-only")
    (point,) = bench(path, batch_sizes=[3], lengths=[10], new_tokens=4, repeats=1, threads=1).points
    weights = decoder_weights(open_bundle(path))
    assert weights.head > weights.multiplied
    operations = 2 * (3 * 10 * weights.multiplied + 3 * weights.head)
    assert point.prompt_share == pytest.approx(operations / slow.float_operations / point.prompt_seconds)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_step_takes_what_a_step_takes(name, monkeypatch):
    """And not the difference of two runs, which on a busy machine may be nothing, or less."""
    monkeypatch.setattr("litseq.bench.speed.time", SimpleNamespace(perf_counter=itertools.count().__next__))
    result = bench(fixture_path(name), batch_sizes=[1, 300], lengths=[20], new_tokens=2, repeats=2, threads=1)
    assert [point.step_seconds for point in result.points] == [1, 1]
    assert [point.tokens_per_second for point in result.points] == [1, 300]


def test_lengths_are_cut_to_what_the_model_takes():
    result = bench(
        fixture_path("tiny-decoder-only"), batch_sizes=[1], lengths=[8, 10**6], new_tokens=2, repeats=1, threads=1
    )
    longest = result.points[-1].length
    assert longest < 10**6
    assert [p.length for p in result.points] == [8, longest]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": []}, "batch size"),
        ({"lengths": [0]}, "length is"),
        ({"repeats": 0}, "repeats"),
        ({"new_tokens": 1}, "new_tokens is 1"),
        ({"new_tokens": 10**6}, "measure fewer"),
    ],
)
def test_numbers_that_cannot_be_measured(options, message):
    with pytest.raises(UsageError, match=message):
        bench(fixture_path("tiny-decoder-only"), threads=1, **options)
