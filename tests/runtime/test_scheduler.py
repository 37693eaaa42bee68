"""Requests from many threads, arriving at any time, give what they give alone."""

import threading
import time

import numpy as np
import pytest

from litseq.errors import LitseqError, UsageError
from litseq.generation import Engine
from litseq.runtime import Generator, Scheduler
from runtime.fixtures import FIXTURES, fixture_path


@pytest.fixture(scope="module", params=FIXTURES)
def generator(request):
    return Generator.from_bundle(fixture_path(request.param), threads=1)


def test_requests_of_many_threads_give_what_they_give_alone(generator):
    rng = np.random.default_rng(0)
    kinds = [{}, {"num_beams": 3}, {"temperature": 1.1, "seed": 1}, {"repetition_penalty": 1.3}, {"stop": "e"}]
    work = [(rng.integers(3, 300, rng.integers(1, 30)).tolist(), kinds[i % len(kinds)]) for i in range(40)]
    wanted = [generator.generate([prompt], max_new_tokens=10, **options)[0] for prompt, options in work]
    found = [None] * len(work)

    with Scheduler(generator, max_rows=6, chunk_tokens=8) as scheduler:

        def ask(first):
            for i in range(first, len(work), 4):
                prompt, options = work[i]
                found[i] = scheduler.submit(prompt, max_new_tokens=10, **options).result(timeout=60)

        threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # Scores may differ in the last bit: a prompt read in chunks is computed in other shapes.
    def seen(completions):
        return [(c.text, c.token_ids, c.finish_reason) for c in completions]

    assert seen(found) == seen(wanted)


def test_a_stream_gives_the_text_in_pieces(generator):
    (wanted,) = generator.generate(["hello there"], max_new_tokens=20)
    with Scheduler(generator) as scheduler:
        pending = scheduler.submit("hello there", stream=True, max_new_tokens=20)
        assert "".join(pending) == wanted.text
        assert pending.result() == wanted
        assert list(pending) == []  # at once: the pieces were given out
        assert pending.done()
        assert "".join(scheduler.submit("hello there", max_new_tokens=20)) == wanted.text


def test_several_sequences(generator):
    options = {"num_beams": 4, "num_return_sequences": 3, "max_new_tokens": 8}
    with Scheduler(generator) as scheduler:
        assert scheduler.submit("ab", **options).results() == generator.generate(["ab"], **options)


def test_a_request_can_be_cancelled(generator):
    with Scheduler(generator, max_rows=1) as scheduler:
        first = scheduler.submit([5, 6, 7], max_new_tokens=50, min_new_tokens=50)
        second = scheduler.submit([5, 6, 7], max_new_tokens=5)
        second.cancel()
        assert second.result(timeout=30).finish_reason in ("cancelled", "eos", "length")
        first.cancel()
        first.cancel()
        assert first.result(timeout=30).finish_reason in ("cancelled", "length")
        first.cancel()  # too late changes nothing


def test_what_cannot_be_asked_is_said_at_once(generator):
    with Scheduler(generator, max_rows=2, max_tokens=20) as scheduler:
        with pytest.raises(UsageError, match="no generation option is called"):
            scheduler.submit("a", max_token=3)
        with pytest.raises(UsageError, match="a stream is one text"):
            scheduler.submit("a", stream=True, num_beams=2, num_return_sequences=2)
        with pytest.raises(UsageError, match="the model takes"):
            scheduler.submit([5] * 500)
        with pytest.raises(UsageError, match="bounded to 20"):
            scheduler.submit([5, 6], max_new_tokens=60).result(timeout=30)
        assert scheduler.submit([5, 6], max_new_tokens=3).result(timeout=30).finish_reason in ("eos", "length")


def test_numbers_that_are_none_are_refused_at_once(generator):
    bounds = [("max_rows", 0), ("max_rows", 1.5), ("max_tokens", -1), ("chunk_tokens", 0), ("max_rows", "4")]
    for name, value in bounds:
        with pytest.raises(UsageError, match=f"{name} is {value!r}, expected an integer of at least 1"):
            Scheduler(generator, **{name: value})
    with Scheduler(generator) as scheduler:
        others = [scheduler.submit([5, 6], max_new_tokens=30, min_new_tokens=30) for _ in range(3)]
        for priority in ("high", None, float("nan")):
            with pytest.raises(UsageError, match=f"priority is {priority!r}, expected an integer"):
                scheduler.submit("a", priority=priority)
        assert [other.result(timeout=30).finish_reason for other in others] == ["length"] * 3


def test_closing_fails_what_is_not_done(generator):
    scheduler = Scheduler(generator, max_rows=1)
    pending = [scheduler.submit([5, 6, 7], max_new_tokens=40, min_new_tokens=40, stream=True) for _ in range(50)]
    scheduler.close()
    with pytest.raises(LitseqError, match="was closed before the request was done"):
        pending[-1].result(timeout=30)
    with pytest.raises(LitseqError, match="was closed"):
        "".join(pending[-1])
    with pytest.raises(LitseqError, match="the scheduler is closed"):
        scheduler.submit("a")


@pytest.mark.parametrize("options", [{}, {"stream": True}, {"num_beams": 2}])
@pytest.mark.parametrize(
    ("allowed", "error"), [(lambda ids: 1 // 0, ZeroDivisionError), (lambda ids: [10**6], UsageError)]
)
def test_a_function_that_raises_fails_its_request_and_no_other(generator, options, allowed, error):
    with Scheduler(generator) as scheduler:
        other = scheduler.submit([5, 6, 7], max_new_tokens=9)
        broken = scheduler.submit([5, 6], max_new_tokens=9, prefix_allowed_tokens=allowed, **options)
        with pytest.raises(error):
            broken.result(timeout=30)
        with pytest.raises(error):
            "".join(broken)
        assert other.result(timeout=30).token_ids
        assert scheduler.submit([5, 6], max_new_tokens=9).result(timeout=30).token_ids


def test_a_function_that_raises_is_heard_without_a_scheduler(generator):
    options = {"max_new_tokens": 9, "prefix_allowed_tokens": lambda ids: 1 // 0}
    with pytest.raises(ZeroDivisionError):
        generator.generate([[5, 6]], **options)
    with pytest.raises(ZeroDivisionError):
        "".join(generator.stream([5, 6], **options))


def test_memory_stays_within_the_bound(generator):
    rng = np.random.default_rng(1)
    bound, submitted, peak = 256, 0, 0
    with generator._engine(16, max_tokens=bound, chunk_tokens=16) as engine:
        rows = engine._model._rows
        while submitted < 120 or not engine.idle:
            if submitted < 120 and engine.waiting < 4:
                beams = {"num_beams": 4} if rng.random() < 0.25 else {}
                prompt = rng.integers(3, 300, rng.choice([1, 3, 8, 30])).tolist()
                options = {"max_new_tokens": int(rng.choice([1, 5, 20])), **beams}
                engine.submit(generator._request(prompt, options, live=False)[0])
                submitted += 1
            engine.step()
            caches = (rows._cache, rows._cross)
            peak = max(peak, sum(store.rows * store.length for store in caches))
    # Lengths are rounded up: those of the rows by 15, of the sources by 7.
    assert bound // 2 < peak <= bound + 16 * (15 + 7)


def test_a_failing_loop_does_not_hang_the_others(generator, monkeypatch):
    monkeypatch.setattr(Engine, "step", lambda self: 1 // 0)
    with Scheduler(generator) as scheduler:
        broken = scheduler.submit([5, 6], max_new_tokens=9)
        with pytest.raises(LitseqError, match="the scheduler failed"):
            broken.result(timeout=30)
        for _ in range(100):
            try:
                scheduler.submit("a")
            except LitseqError:  # what is waited for
                break
            time.sleep(0.01)
        else:
            pytest.fail("a scheduler that failed takes requests")
