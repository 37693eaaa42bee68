"""What was read is not read again, and nobody can tell from the tokens."""

from dataclasses import dataclass

import numpy as np
import pytest

from generation.toy_model import ToyModel, slow_greedy
from litseq.generation import Engine, GenerationOptions, PrefixStore, Prompt, Request, reuse, run
from litseq.generation.reuse import SHORTEST, common

END = 2
STEPS = GenerationOptions(max_new_tokens=8)


@dataclass
class Piece:
    nbytes: int


def ids(seed, count):
    return np.random.default_rng(seed).integers(3, 11, count).tolist()


def read_tokens(model):
    return sum(tokens for kind, tokens in model.calls if kind == "read")


def test_common():
    assert common([1, 2, 3], [1, 2, 3, 4]) == 3
    assert common([1, 2, 3], [1, 5, 3]) == 1
    assert common([], [1]) == 0
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.integers(0, 2, (2, 9)).tolist()
        assert common(a, b) == next((i for i in range(9) if a[i] != b[i]), 9)


def test_the_longest_beginning_is_found():
    store = PrefixStore(10_000)
    start = ids(0, 20)
    store.add([*start, 3, 4], Piece(10))
    store.add([*start, 5, 6, 7], Piece(20))
    found, length = store.find([*start, 5, 6, 9, 9])
    assert (found.saved.nbytes, length) == (20, 22)
    assert store.find(ids(1, 30)) is None
    assert store.find(start[: SHORTEST - 1]) is None


def test_the_least_recently_used_goes_first_and_the_bound_holds():
    store = PrefixStore(100)
    for seed in range(3):
        store.add(ids(seed, 20), Piece(30))
    store.find(ids(0, 25))
    store.add(ids(3, 20), Piece(30))
    assert store.nbytes == 90
    assert [store.find(ids(seed, 25)) is not None for seed in range(4)] == [True, False, True, True]
    store.add(ids(9, 20), Piece(101))
    assert len(store) == 3
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)


def test_a_longer_beginning_takes_the_place_of_a_shorter_one():
    store = PrefixStore(100)
    store.add(ids(0, 20), Piece(30))
    store.add(ids(0, 25), Piece(40))
    assert (len(store), store.nbytes) == (1, 40)
    assert store.holds(ids(0, 20)) and not store.holds(ids(0, 26))
    store.add(ids(0, 10), Piece(5))
    assert len(store) == 1


def test_it_finds_what_a_look_at_everything_finds():
    """Against a slow list, with many beginnings of beginnings; all that is kept fits."""
    rng = np.random.default_rng(1)
    store, kept = PrefixStore(10**6), set()
    for _ in range(400):
        wanted = (*([5] * (SHORTEST - 2)), *rng.integers(3, 5, rng.integers(0, 9)).tolist())
        lengths = {entry: common(entry, wanted) for entry in kept}
        most = max(lengths.values(), default=0)
        found = store.find(wanted)
        assert (found[1] if found else 0) == (most if most >= SHORTEST else 0)
        assert found is None or lengths[found[0].ids] == most
        assert store.holds(wanted) == any(entry[: len(wanted)] == wanted for entry in kept)
        if rng.random() < 0.2:
            store.add(wanted, Piece(1))
            if len(wanted) >= SHORTEST and not any(entry[: len(wanted)] == wanted for entry in kept):
                kept = {entry for entry in kept if wanted[: len(entry)] != entry} | {wanted}
        assert (len(store), store.nbytes) == (len(kept), len(kept))


def test_many_entries_are_not_looked_at_one_by_one(monkeypatch):
    looks = []
    monkeypatch.setattr(reuse, "common", lambda a, b: looks.append(a) or common(a, b))
    store, start = PrefixStore(10**6), ids(0, 20)
    for seed in range(500):
        store.add([*start, *ids(seed, 12)], Piece(10))
    looks.clear()
    assert store.find([*start, *ids(77, 12), 3])[1] == 32
    assert len(looks) <= 2


def test_prompts_with_one_introduction_read_it_once():
    start = ids(0, 40)
    prompts = [Prompt([*start, *ids(seed, 3 + seed)]) for seed in range(1, 6)]
    model = ToyModel(max_length=100)
    engine = Engine(model, (END,))
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, STEPS, i))
    found = run(engine)
    assert read_tokens(model) <= sum(len(prompt.ids) for prompt in prompts) - 4 * 40
    assert [result.tokens for result in found] == [slow_greedy(model, prompt, 8, END) for prompt in prompts]


def test_equal_prompts_share_all_but_the_last_token():
    model = ToyModel(max_length=100)
    engine = Engine(model, (END,))
    for i in range(4):
        engine.submit(Request(Prompt(ids(0, 30)), STEPS, i))
    assert len({tuple(result.tokens) for result in run(engine)}) == 1
    assert read_tokens(model) == 30 + 3


def chat(turns, store, **options):
    """A conversation whose every turn reads all that was said; what was read and said at each turn."""
    said, heard, read = [], [], []
    for turn in range(turns):
        said += ids(100 + turn, 12)
        model = ToyModel(max_length=400)
        engine = Engine(model, (END,), reuse=store)
        engine.submit(Request(Prompt(list(said)), GenerationOptions(max_new_tokens=8, **options), keep=True))
        (result,) = run(engine)
        heard.append(result.tokens)
        read.append(read_tokens(model))
        said += result.tokens
    return heard, read


def test_near_the_limit_rows_of_different_age_are_not_padded_beyond_it():
    start = ids(0, 60)
    prompts = [Prompt(start[:60]), Prompt([*start[:59], *ids(1, 3)]), Prompt([*start[:46], *ids(2, 17)])]
    model = ToyModel(max_length=64)
    engine = Engine(model, (END,))
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=4), i))
    wanted = [slow_greedy(model, prompt, min(4, 65 - len(prompt.ids)), END) for prompt in prompts]
    assert [result.tokens for result in run(engine)] == wanted
    assert read_tokens(model) == 60 + 3 + 17


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.2, "seed": 3}, {"num_beams": 3}, {"repetition_penalty": 1.5}]
)
def test_a_chat_reads_only_what_is_new(options):
    heard, read = chat(10, PrefixStore(10**6), **options)
    wanted, all_of_it = chat(10, None, **options)
    assert heard == wanted
    assert all(tokens <= 12 + 8 + 1 for tokens in read[2:])
    assert all_of_it[-1] > 100


def test_a_small_store_changes_nothing_but_the_work():
    heard, read = chat(6, PrefixStore(8 * 30))
    assert heard == chat(6, None)[0]
    assert read[-1] > 21


def test_what_does_not_ask_for_it_is_not_kept():
    store = PrefixStore(10**6)
    engine = Engine(ToyModel(max_length=100), (END,), reuse=store)
    engine.submit(Request(Prompt(ids(0, 30)), STEPS))
    run(engine)
    assert len(store) == 0


@pytest.mark.parametrize("hindrance", ["reads_in_chunks", "can_rewind"])
def test_models_that_cannot_share_read_everything(hindrance):
    model = ToyModel(max_length=100)
    setattr(model, hindrance, False)
    engine = Engine(model, (END,), reuse=PrefixStore(10**6))
    for i in range(3):
        engine.submit(Request(Prompt(ids(0, 30)), STEPS, i, keep=True))
    run(engine)
    assert read_tokens(model) == 90


def test_sources_are_not_mistaken_for_prompts():
    prompts = [Prompt(ids(0, 20), ids(seed, 9)) for seed in range(4)]
    engine = Engine(ToyModel(), (END,), reuse=PrefixStore(10**6))
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, STEPS, i, keep=True))
    assert [result.tokens for result in run(engine)] == [slow_greedy(ToyModel(), p, 8, END) for p in prompts]


def test_anything_at_any_time():
    """Random prompts of few beginnings, arriving at random, in a small bounded loop: tokens as if alone."""
    rng = np.random.default_rng(5)
    model = ToyModel(max_length=120)
    engine = Engine(model, (END,), max_rows=5, chunk_tokens=7, reuse=PrefixStore(2000))
    prompts = [
        Prompt([*ids(int(rng.integers(0, 3)), int(rng.integers(10, 60))), *ids(int(rng.integers(9, 99)), 3)])
        for _ in range(40)
    ]
    requests = [
        Request(prompt, GenerationOptions(max_new_tokens=int(n), num_beams=int(beams)), keep=bool(keep))
        for prompt, n, beams, keep in zip(
            prompts, rng.integers(1, 12, 40), rng.integers(1, 3, 40), rng.integers(0, 2, 40), strict=True
        )
    ]
    results, sent = [], 0
    while sent < len(requests) or not engine.idle:
        while sent < len(requests) and rng.random() < 0.4:
            engine.submit(requests[sent])
            sent += 1
        results += engine.step()
    assert [r.ticket for r in sorted(results, key=lambda r: r.ticket)] == [*range(1, 41)]
    for result in results:
        alone = Engine(ToyModel(max_length=120), (END,))
        alone.submit(requests[result.ticket - 1])
        assert run(alone)[0].tokens == result.tokens
