"""Many prompts through one engine: order, equality with one by one, bounded windows, errors in their place."""

import threading

import numpy as np
import pytest

from litseq.errors import DataError, UsageError
from litseq.runtime import Generator
from litseq.runtime.offline import IterableSource
from runtime.fixtures import fixture_path

OPTIONS = {"max_new_tokens": 6}


@pytest.fixture(scope="module", params=["tiny-encoder-decoder", "tiny-decoder-only"])
def generator(request):
    return Generator.from_bundle(fixture_path(request.param), threads=1, batch_size=8)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(5)
    ids = [rng.integers(3, 300, rng.integers(1, 30)).tolist() for _ in range(36)]
    return [*ids[:20], "the fox", "", "größe 🙂", *ids[20:]]


class Counted:
    """Prompts without end, and how many of them were asked for."""

    def __init__(self, prompts):
        self.prompts = prompts
        self.count = 0

    def __iter__(self):
        while True:
            self.count += 1
            yield self.prompts[(self.count - 1) % len(self.prompts)]


@pytest.mark.parametrize("window", [1, 3, 8, 40, None])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "seed": 4}, {"num_beams": 2, "num_return_sequences": 2}])
def test_windows_of_any_size_give_what_generate_gives(generator, prompts, window, options):
    wanted = generator.generate(prompts, **OPTIONS, **options)
    found = generator.generate_iterable(iter(prompts), window=window, **OPTIONS, **options)
    assert [(c.token_ids, c.text) for c in found] == [(c.token_ids, c.text) for c in wanted]


def test_one_by_one_gives_the_same(generator, prompts):
    found = list(generator.generate_iterable(prompts, **OPTIONS))
    assert found == [generator.generate([prompt], **OPTIONS)[0] for prompt in prompts]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.3, "seed": 4}, {"num_beams": 2}])
def test_workers_give_the_same(generator, prompts, options):
    wanted = [(c.text, c.token_ids) for c in generator.generate(prompts, **OPTIONS, **options)]
    at_once = generator.generate(prompts, workers=2, **OPTIONS, **options)
    one_by_one = generator.generate_iterable(prompts, workers=3, window=24, **OPTIONS, **options)
    assert [(c.text, c.token_ids) for c in at_once] == wanted
    assert [(c.text, c.token_ids) for c in one_by_one] == wanted


def test_what_fails_in_a_worker_is_raised(generator, prompts, monkeypatch):
    def broken(_self, _result):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("litseq.runtime.output.OutputText.completions", broken)
    for workers in (1, 2):
        with pytest.raises(RuntimeError, match="out of luck"):
            generator.generate(prompts, workers=workers, **OPTIONS)


def test_blocks_are_smaller_than_the_work(generator, prompts):
    many = prompts * 4
    found = generator.generate_iterable(many, batch_size=2, window=64, **OPTIONS)
    assert [c.token_ids for c in found] == [c.token_ids for c in generator.generate(prompts, **OPTIONS)] * 4


def test_prompts_are_read_no_further_than_the_window(generator, prompts):
    endless = Counted(prompts)
    found = generator.generate_iterable(endless, window=20, **OPTIONS)
    for given in range(1, 100):
        next(found)
        assert endless.count <= given + 20
    found.close()
    assert generator.generate(["a"], **OPTIONS)


def test_a_slow_prompt_holds_no_more_than_the_window(generator):
    # The first prompt generates until the model is full; all others end by their stop string at once.
    endless = Counted([[5]])
    found = generator.generate_iterable(endless, window=16, batch_size=4, min_new_tokens=40, max_new_tokens=40)
    next(found)
    assert endless.count <= 17
    found.close()


def test_the_batch_stays_full_between_blocks(generator, monkeypatch):
    widths = []
    engine = Generator._engine

    def watched(self, *args, **more):
        context = engine(self, *args, **more)

        class Watch:
            def __enter__(self):
                self.engine = context.__enter__()
                step = self.engine.step
                self.engine.step = lambda: (step(), widths.append(self.engine.running))[0]
                return self.engine

            def __exit__(self, *exception):
                return context.__exit__(*exception)

        return Watch()

    monkeypatch.setattr(Generator, "_engine", watched)
    prompts = [[5 + i % 7, 9] for i in range(300)]
    list(generator.generate_iterable(prompts, window=64, batch_size=8, min_new_tokens=2, max_new_tokens=9))
    inside = widths[3 : len(widths) * 3 // 4]
    assert np.mean(inside) > 6.5


@pytest.mark.parametrize("stop", [["a"], ["never there"]])
def test_stop_strings(generator, prompts, stop):
    wanted = generator.generate(prompts[:20], stop=stop, max_new_tokens=20)
    assert list(generator.generate_iterable(prompts[:20], stop=stop, max_new_tokens=20, window=5)) == wanted


def test_nothing(generator):
    assert list(generator.generate_iterable([])) == []
    assert list(generator.generate_iterable(iter(()))) == []


def test_an_error_of_the_iterable_comes_behind_all_before_it(generator, prompts):
    def broken():
        yield from prompts[:11]
        raise OSError("the disk is gone")

    found = generator.generate_iterable(broken(), **OPTIONS)
    wanted = generator.generate(prompts[:11], **OPTIONS)
    assert [next(found) for _ in range(11)] == wanted
    with pytest.raises(OSError, match="the disk is gone"):
        next(found)


@pytest.mark.parametrize(
    ("bad", "words"),
    [([5] * 99, "prompt 4 has 99 tokens"), ("\ud800", "prompt 4 is no valid Unicode"), (3, "prompt 4 is of type int")],
)
def test_a_prompt_that_does_not_fit_comes_behind_all_before_it(generator, prompts, bad, words):
    mixed = [*prompts[:4], bad, *prompts[4:9]]
    found = generator.generate_iterable(mixed, **OPTIONS)
    assert [next(found) for _ in range(4)] == generator.generate(prompts[:4], **OPTIONS)
    with pytest.raises(UsageError, match=words):
        next(found)
    with pytest.raises(UsageError, match=words):
        generator.generate(mixed, **OPTIONS)


def test_errors_stand_in_the_place_of_their_prompts(generator, prompts):
    items = [prompts[0], DataError("no such line"), prompts[1], [5] * 99, prompts[2]]
    outcomes = list(generator.offline(IterableSource(items), start=7, name="line {}".format, **OPTIONS))
    good = [outcome[0] for outcome in outcomes if isinstance(outcome, list)]
    assert good == generator.generate(prompts[:3], **OPTIONS)
    assert outcomes[1] is items[1]
    assert str(outcomes[3]).startswith("line 10 has 99 tokens")


def test_start_is_the_place_that_the_seed_goes_by(generator, prompts):
    options = {"temperature": 1.5, "seed": 3, **OPTIONS}
    wanted = generator.generate(prompts, **options)[20:30]
    run = generator.offline(IterableSource(prompts[20:30]), start=20, **options)
    assert [outcome[0] for outcome in run] == wanted
    assert run.finished == 30


def test_prompts_that_are_not_there_yet_stop_nobody(generator):
    class Trickle:
        """One prompt a time, and only to those who have nothing else to do."""

        failure = None

        def __init__(self):
            self.left = 5

        def take(self, most, *, wait):
            if not wait or not self.left:
                return []
            self.left -= 1
            return [[5, 6, self.left + 3]]

    outcomes = list(generator.offline(Trickle(), **OPTIONS))
    assert [o[0] for o in outcomes] == generator.generate([[5, 6, i + 3] for i in (4, 3, 2, 1, 0)], **OPTIONS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("one text",), "prompts is of type str"),
        ((5,), "prompts is of type int"),
    ],
)
def test_wrong_prompts_are_refused_at_once(generator, arguments, words):
    with pytest.raises(UsageError, match=words):
        generator.generate_iterable(*arguments)


@pytest.mark.parametrize(
    "options", [{"window": 0}, {"window": True}, {"batch_size": 0}, {"workers": 0}, {"no_such": 1}, {"top_p": 7}]
)
def test_wrong_options_are_refused_at_once(generator, options):
    with pytest.raises(UsageError):
        generator.generate_iterable(["a"], **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_thread_is_left(generator, prompts, workers):
    before = set(threading.enumerate())
    found = generator.generate_iterable(prompts, workers=workers, **OPTIONS)
    next(found)
    found.close()
    assert set(threading.enumerate()) <= before
