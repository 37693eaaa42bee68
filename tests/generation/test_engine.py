import numpy as np
import pytest

from generation.toy_model import ToyModel, slow_greedy
from litseq.errors import UsageError
from litseq.generation import Engine, GenerationOptions, Prompt, Request, Result, run

END = 2


def random_prompts(count, seed=0, vocab_size=11, longest=9):
    rng = np.random.default_rng(seed)
    return [Prompt(rng.integers(3, vocab_size, rng.integers(1, longest)).tolist()) for _ in range(count)]


def generate(prompts, options=None, *, model=None, max_rows=32, end=(END,), **engine_options) -> list[Result]:
    engine = Engine(model or ToyModel(), end, max_rows=max_rows, **engine_options)
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, options or GenerationOptions(max_new_tokens=20), i))
    return run(engine)


def tokens(results):
    return [result.tokens for result in results]


@pytest.mark.parametrize("max_rows", [1, 3, 7, 32])
@pytest.mark.parametrize("has_top_k", [False, True])
def test_greedy_equals_the_slow_decode_at_every_batch_size(max_rows, has_top_k):
    prompts = random_prompts(25)
    found = generate(prompts, model=ToyModel(has_top_k=has_top_k), max_rows=max_rows)
    assert tokens(found) == [slow_greedy(ToyModel(), prompt, 20, END) for prompt in prompts]
    assert {result.finish_reason for result in found} == {"eos", "length"}


def test_the_source_is_read_before_the_prompt():
    prompts = [Prompt([1], source) for source in ([3, 4, 5], [9], [7, 7, 7, 7, 8])]
    assert tokens(generate(prompts)) == [slow_greedy(ToyModel(), prompt, 20, END) for prompt in prompts]


def test_finished_rows_leave_at_once_and_waiting_requests_take_their_place():
    model = ToyModel()
    prompts = [Prompt([5, *prompt.ids]) for prompt in random_prompts(12)]
    generate(prompts, model=model, max_rows=4)
    lengths = [len(slow_greedy(model, prompt, 20, END)) for prompt in prompts]
    ended = [length < 20 for length in lengths]
    # A row is advanced once for each token but the first, and for the end token; the last one is never fed back.
    wanted = sum(length - (not end) for length, end in zip(lengths, ended, strict=True))
    assert sum(rows for kind, rows in model.calls if kind == "advance") == wanted
    assert max(rows for kind, rows in model.calls if kind != "read") <= 4
    assert model.rows == 0


def test_admit_at_waits_until_several_rows_are_free():
    model = ToyModel()
    generate(random_prompts(40), model=model, max_rows=8, admit_at=4)
    admitted = [rows for kind, rows in model.calls if kind == "admit"]
    assert all(rows >= 4 for rows in admitted[:-1])
    assert sum(admitted) == 40


def test_requests_may_come_while_others_run():
    prompts = random_prompts(9, seed=3)
    engine = Engine(ToyModel(), (END,), max_rows=3)
    results, waiting = [], list(enumerate(prompts))
    while waiting or not engine.idle:
        if waiting:
            i, prompt = waiting.pop(0)
            engine.submit(Request(prompt, GenerationOptions(max_new_tokens=15), i))
        results += engine.step()
    results.sort(key=lambda result: result.ticket)
    assert tokens(results) == [slow_greedy(ToyModel(), prompt, 15, END) for prompt in prompts]


def finishing_order(*requests: Request, **options) -> list[int]:
    engine = Engine(ToyModel(), (), **options)
    for request in requests:
        engine.submit(request)
    finished = []
    while not engine.idle:
        finished += [result.ticket for result in engine.step()]
    return finished


def test_requests_enter_first_come_first_served_and_by_priority():
    options = GenerationOptions(max_new_tokens=3)
    prompts = [Prompt([3] * 9), Prompt([4]), Prompt([5, 5]), Prompt([6])]
    assert finishing_order(*(Request(p, options) for p in prompts), max_rows=1) == [1, 2, 3, 4]
    priorities = [5, 0, -1, 0]
    urgent = [Request(p, options, priority=n) for p, n in zip(prompts, priorities, strict=True)]
    assert finishing_order(*urgent, max_rows=1) == [3, 2, 4, 1]


def test_a_long_prompt_is_read_in_chunks_beside_running_rows():
    model = ToyModel(max_length=200)
    engine = Engine(model, (), chunk_tokens=8)
    short, long = Prompt([3, 4]), Prompt([5, 6, 7, 8, 9, 10, 3, 4] * 5)
    options = GenerationOptions(max_new_tokens=12)
    engine.submit(Request(short, options))
    engine.step()
    model.calls.clear()
    engine.submit(Request(long, options, 1))
    for _ in range(5):
        engine.step()
    assert model.calls == [("admit", 1), *[("read", 8), ("advance", 1)] * 4, ("read", 8), ("advance", 2)]
    assert tokens(run(engine)) == [slow_greedy(model, prompt, 12, -1) for prompt in (short, long)]


def test_the_caches_stay_within_their_bound():
    model, most = ToyModel(), 60
    engine = Engine(model, (END,), max_rows=8, max_tokens=most)
    prompts = random_prompts(30, seed=4)
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=3 + i % 9), i))
    results = []
    while not engine.idle:
        results += engine.step()
        assert model.rows * max(map(len, model.ids), default=0) <= most
    results.sort(key=lambda result: result.ticket)
    wanted = [slow_greedy(model, prompt, 3 + i % 9, END) for i, prompt in enumerate(prompts)]
    assert tokens(results) == wanted
    with pytest.raises(
        UsageError, match=r"61 tokens \(1 rows of 61\), the caches are bounded to 60; lower max_new_tokens"
    ):
        engine.submit(Request(Prompt([3]), GenerationOptions(max_new_tokens=61)))


def test_sources_are_within_the_bound_too():
    model, most = ToyModel(), 60
    engine = Engine(model, (END,), max_rows=8, max_tokens=most)
    prompts = [Prompt([3], source.ids) for source in random_prompts(30, seed=4, longest=30)]
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=3 + i % 9), i))
    results = []
    while not engine.idle:
        results += engine.step()
        assert model.rows * (max(map(len, model.ids), default=0) + max(map(len, model.sources), default=0)) <= most
    results.sort(key=lambda result: result.ticket)
    assert tokens(results) == [slow_greedy(model, prompt, 3 + i % 9, END) for i, prompt in enumerate(prompts)]
    with pytest.raises(UsageError, match=r"64 tokens \(2 rows of 32\), the caches are bounded to 60"):
        engine.submit(Request(Prompt([3], [4] * 30), GenerationOptions(max_new_tokens=2, num_beams=2)))


def test_a_listener_sees_every_token_and_may_end_the_request():
    seen = []

    def listener(token):
        seen.append(token)
        return len(seen) == 4

    engine = Engine(ToyModel(), ())
    engine.submit(Request(Prompt([3, 4]), GenerationOptions(max_new_tokens=20), 0, listener))
    (result,) = run(engine)
    assert result.tokens == seen == slow_greedy(ToyModel(), Prompt([3, 4]), 4, -1)
    assert result.finish_reason == "stop"


def test_the_models_limit_ends_a_request():
    model = ToyModel(max_length=10)
    (result,) = generate([Prompt([3] * 7)], GenerationOptions(), model=model, end=())
    # Ten tokens fit the cache; the last one generated is never fed back.
    assert len(result.tokens) == 4
    assert result.finish_reason == "length"


@pytest.mark.parametrize("ids", [[], [3] * 11])
def test_a_prompt_that_does_not_fit_is_refused(ids):
    engine = Engine(ToyModel(max_length=10), (END,))
    with pytest.raises(UsageError, match=rf"has {len(ids)} tokens, the model takes 1 to 10"):
        engine.submit(Request(Prompt(ids)))
    assert engine.idle


def test_requests_can_be_cancelled_waiting_and_running():
    engine = Engine(ToyModel(), (), max_rows=2)
    prompts = random_prompts(4)
    tickets = [
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=6), i)) for i, prompt in enumerate(prompts)
    ]
    engine.step()
    assert engine.cancel(tickets[0]).tokens == slow_greedy(ToyModel(), prompts[0], 2, -1)
    assert engine.cancel(tickets[3]).finish_reason == "cancelled"
    rest = run(engine)
    assert [result.ticket for result in rest] == [tickets[1], tickets[2]]
    assert tokens(rest) == [slow_greedy(ToyModel(), prompt, 6, -1) for prompt in prompts[1:3]]
    assert engine.cancel(tickets[0]) is None


def raises_at(call):
    calls = iter(range(call))

    def function(_):
        if next(calls, None) is None:
            raise ZeroDivisionError("mine")
        return [3, 4, 5]

    return function


FAILING = {
    "allowed tokens": lambda f: {"options": {"prefix_allowed_tokens": f}},
    "allowed tokens of samples": lambda f: {
        "options": {"prefix_allowed_tokens": f, "temperature": 1.0, "num_return_sequences": 3}
    },
    "allowed tokens of beams": lambda f: {"options": {"prefix_allowed_tokens": f, "num_beams": 3}},
    "a listener": lambda f: {"on_token": lambda token: not f(token)},
    "a listener to beams": lambda f: {"on_token": f, "options": {"num_beams": 2}},
    "stops of samples": lambda f: {
        "stops": lambda ids: not f(ids), "options": {"temperature": 1.0, "num_return_sequences": 2}
    },
    "stops of beams": lambda f: {"stops": lambda ids: not f(ids), "options": {"num_beams": 2}},
}  # fmt: skip


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("failing", FAILING.values(), ids=FAILING)
def test_a_function_that_raises_ends_its_request_and_no_other(failing, at):
    prompts = random_prompts(6)
    values = failing(raises_at(at))
    options = GenerationOptions(max_new_tokens=20, min_new_tokens=10, **values.pop("options", {}))
    model = ToyModel()
    engine = Engine(model, (END,))
    for prompt in prompts[:3]:
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=20)))
    broken = engine.submit(Request(prompts[3], options, **values))
    for prompt in prompts[4:]:
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=20)))

    found = {}
    while not engine.idle:
        found |= {result.ticket: result for result in engine.step()}

    assert isinstance(found.pop(broken).error, ZeroDivisionError)
    others = [prompt for i, prompt in enumerate(prompts) if i != 3]
    assert [found[ticket].tokens for ticket in sorted(found)] == [
        slow_greedy(ToyModel(), prompt, 20, END) for prompt in others
    ]
    assert not any(result.error for result in found.values())
    assert model.rows == 0


def test_several_end_tokens():
    found = generate(random_prompts(8), end=(2, 3, 4))
    assert not {2, 3, 4} & {token for result in found for token in result.tokens}


def test_an_engine_without_requests_is_idle():
    engine = Engine(ToyModel(), (END,))
    assert engine.idle
    assert engine.step() == []


def test_a_model_in_use_is_refused():
    model = ToyModel()
    model.admit([Prompt([3])])
    with pytest.raises(ValueError, match="holds 1 rows already"):
        Engine(model, (END,))
