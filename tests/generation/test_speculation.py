"""Guessing changes no token, saves calls where text copies, and costs next to nothing where it does not."""

import numpy as np
import pytest

from generation.scripted import END, Scripted, calls, eager, one, prompts_of, slow_until
from generation.toy_model import ToyModel, slow_greedy
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run
from litseq.generation.drafts import PromptLookup, Record, check_cost
from litseq.generation.speculation import Costs


class Guesser:
    """Guesses the truth, garbage, or the truth with errors, by chance."""

    def __init__(self, model, truth, seed=0):
        self.model, self.truth, self.rng = model, truth, np.random.default_rng(seed)

    def update(self, rows):
        return [Record(0.9, 0.9) if self.rng.random() < 0.9 else None for _ in rows]

    def draft(self, rows, counts):
        return [
            self.guess(row, self.rng.integers(0, count + 3)) if count else []
            for row, count in zip(rows, counts, strict=True)
        ]

    def guess(self, row, count):
        prompt = row.job.request.prompt
        ids = [*prompt.ids, *row.tokens]
        found = []
        for _ in range(count):
            token = int(self.model.logits([*ids, *found], prompt.source or ()).argmax())
            found.append(token if self.rng.random() < self.truth else int(self.rng.integers(0, 11)))
        if found and self.rng.random() < 0.1:
            found[-1] = int(self.rng.choice([-1, 99]))
        return found

    def cost(self, rows, count):
        return 1.0


class Never:
    """A drafter that is never asked: the plain loop, with the clock running."""

    def update(self, rows):
        return [None] * len(rows)

    def draft(self, rows, counts):
        raise AssertionError

    def cost(self, rows, count):
        return 1.0


@pytest.mark.parametrize("truth", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("with_source", [False, True])
def test_whatever_is_guessed_the_output_is_the_greedy_one(truth, with_source):
    rng = np.random.default_rng(int(10 * truth))
    for seed in range(3):
        model = ToyModel(max_length=40)
        prompts = prompts_of(rng, 12, with_source)
        engine = Engine(model, (END, 5), max_rows=4, drafters=[Guesser(model, truth, seed)], costs=eager())
        limits = rng.integers(1, 40, len(prompts)).tolist()
        heard = {i: [] for i in range(len(prompts))}
        stops = {i: rng.integers(1, 30) for i in range(0, len(prompts), 3)}

        def listen(i, token, heard=heard, stops=stops):
            heard[i].append(token)
            return len(heard[i]) == stops.get(i)

        waiting, results = list(enumerate(prompts)), []
        while waiting or not engine.idle:
            for _ in range(int(rng.integers(0, 3))):
                if waiting:
                    i, prompt = waiting.pop(0)
                    options = GenerationOptions(max_new_tokens=limits[i])
                    engine.submit(Request(prompt, options, i, lambda token, i=i: listen(i, token)))
            results += engine.step()
        for i, result in enumerate(sorted(results, key=lambda result: result.ticket)):
            most = min(limits[i], 40 - len(prompts[i].ids) + 1)
            wanted = slow_until(model, prompts[i], most, {END, 5})
            stopped = i in stops and len(wanted) >= stops[i]
            assert result.tokens == heard[i] == (wanted[: stops[i]] if stopped else wanted)
            reason = "stop" if stopped else "length" if len(wanted) == most else "eos"
            assert result.finish_reason == reason


def test_rows_that_want_more_than_the_likeliest_token_keep_the_step_plain():
    rng = np.random.default_rng(3)
    prompts = prompts_of(rng, 6)
    kinds = [{}, {"temperature": 1.0, "seed": 1}, {"num_beams": 3}, {"logprobs": True}, {"repetition_penalty": 1.3}, {}]
    found = []
    for drafters in ([], [Guesser(ToyModel(), 0.8)]):
        engine = Engine(ToyModel(), (END,), drafters=drafters, costs=eager())
        for i, (prompt, kind) in enumerate(zip(prompts, kinds, strict=True)):
            engine.submit(Request(prompt, GenerationOptions(max_new_tokens=12 + 3 * i, **kind), i))
        found.append([(result.tokens, result.finish_reason) for result in run(engine)])
    assert found[0] == found[1]


def test_a_request_may_be_cancelled_between_guesses():
    model = ToyModel()
    prompts = prompts_of(np.random.default_rng(5), 4)
    engine = Engine(model, (), drafters=[Guesser(model, 0.9)], costs=eager())
    tickets = [engine.submit(Request(p, GenerationOptions(max_new_tokens=30), i)) for i, p in enumerate(prompts)]
    for _ in range(6):
        engine.step()
    cancelled = engine.cancel(tickets[1])
    assert cancelled.tokens == slow_greedy(model, prompts[1], len(cancelled.tokens), -1)
    rest = run(engine)
    wanted = [slow_greedy(model, prompt, 30, -1) for i, prompt in enumerate(prompts) if i != 1]
    assert [result.tokens for result in rest] == wanted


def test_nothing_is_read_beyond_a_limit_and_the_models_end():
    # ToyModel asserts that no row grows beyond its length.
    for length in range(8, 20):
        model = ToyModel(max_length=length)
        result = one(model, Prompt([3, 4, 5]), [Guesser(model, 1.0)], GenerationOptions(), eager())
        assert result.tokens == slow_until(model, Prompt([3, 4, 5]), length - 2, {END})


def test_a_model_that_cannot_shorten_rows_steps_plainly():
    model = ToyModel()
    model.can_rewind = False
    one(model, Prompt([3, 4, 5]), [Guesser(model, 1.0)], costs=eager())
    assert all(kind == "advance" for kind, _ in model.calls[2:])


def copies(ids, source):
    """Behind the prompt [3 ..., END]: the prompt once more."""
    if END not in ids:
        return END
    begin = ids.index(END)
    rest = ids[begin + 1 :]
    return ids[len(rest)] if len(rest) < begin else END


def echoes(ids, source):
    return source[len(ids) - 1] if len(ids) <= len(source) else END


def different(ids, source):
    """No pair of tokens occurs twice."""
    return 3 + (7 * len(ids)) % 97 if len(ids) % 2 else 100 + len(ids)


def test_text_that_copies_its_prompt_or_its_source_takes_few_calls():
    text = np.random.default_rng(1).integers(3, 300, 64).tolist()
    for follow, prompt in ((copies, Prompt([*text, END])), (echoes, Prompt([1], text))):
        model = Scripted(follow, vocab_size=300, max_length=200)
        costs = Costs(model.clock)
        result = one(model, prompt, [PromptLookup()], GenerationOptions(max_new_tokens=100), costs)
        assert result.tokens == text
        assert calls(model) < 20
        assert model.now < 10.0 * 65 / 2.2


def test_output_that_repeats_itself_takes_few_calls():
    model = Scripted(lambda ids, source: 3 + len(ids) % 5, vocab_size=20, max_length=200)
    one(model, Prompt([4]), [PromptLookup()], GenerationOptions(max_new_tokens=120), Costs(model.clock))
    assert calls(model) < 25


@pytest.mark.parametrize("slope", [0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_text_that_does_not_copy_loses_next_to_nothing(slope, seed):
    rng = np.random.default_rng(seed)
    # Few words, so that pairs and triples come again all the time, and go on by chance.
    text = rng.integers(3, 9, 600).tolist()
    times = []
    for drafters in ([PromptLookup()], [Never()]):
        model = Scripted(lambda ids, source: text[len(ids)], slope=slope, vocab_size=10, max_length=600)
        result = one(model, Prompt(text[:20]), drafters, GenerationOptions(max_new_tokens=500), Costs(model.clock))
        assert result.tokens == text[20:520]
        times.append(model.now)
    assert times[0] < 1.03 * times[1]


def test_text_without_repeats_is_never_guessed():
    model = Scripted(different, vocab_size=2000, max_length=800)
    one(model, Prompt([1]), [PromptLookup()], GenerationOptions(max_new_tokens=700), Costs(model.clock))
    assert [kind for kind, _ in model.calls].count("advance") == 700


def test_the_option_decides():
    text = [3, 4, 5, 6] * 12
    for option, default, guesses in (
        (None, True, True), (None, False, False), (True, False, True), (False, True, False),
    ):  # fmt: skip
        model = Scripted(lambda ids, source: text[len(ids)], vocab_size=10)
        options = GenerationOptions(max_new_tokens=40, prompt_lookup=option)
        result = one(model, Prompt(text[:6]), [PromptLookup(default=default)], options, Costs(model.clock))
        assert result.tokens == text[6:46]
        assert (calls(model) < 30) == guesses


def test_who_insists_is_obeyed_even_where_it_loses():
    text = [3, 4, 5, 6] * 12
    for option in (None, True):
        model = Scripted(lambda ids, source: text[len(ids)], slope=30.0, vocab_size=10)
        options = GenerationOptions(max_new_tokens=40, prompt_lookup=option)
        one(model, Prompt(text[:6]), [PromptLookup()], options, Costs(model.clock))
        assert (calls(model) < 15) == (option is True)


def test_what_a_call_costs_is_measured():
    """The same text: guessed where checking is cheap, left alone where it was found to be dear."""
    text = [3, 4, 5, 6] * 60
    guessed = {}
    for slope in (0.02, 20.0):
        model = Scripted(lambda ids, source: text[len(ids)], slope=slope, vocab_size=10, max_length=300)
        costs = Costs(model.clock)
        for _ in range(3):
            model.calls.clear()
            one(model, Prompt(text[:6]), [PromptLookup()], GenerationOptions(max_new_tokens=200), costs)
        guessed[slope] = 200 - [kind for kind, _ in model.calls].count("advance")
    assert guessed[0.02] > 190
    assert guessed[20.0] == 1  # the one that reading the prompt gives


def test_rows_side_by_side_are_guessed_where_the_sum_wins():
    """Seven rows of which one copies: the padded call costs more than the one row gains."""
    period, free = [3, 4, 5, 6], np.random.default_rng(0).integers(10, 3000, (8, 200)).tolist()
    for copying, guesses in ((1, False), (7, True)):

        def follow(ids, source, copying=copying):
            return period[len(ids) % 4] if ids[0] < copying else free[ids[0]][len(ids)]

        model = Scripted(follow, slope=0.12, vocab_size=3000, max_length=200)
        engine = Engine(model, (), drafters=[PromptLookup()], costs=Costs(model.clock))
        for i in range(7):
            engine.submit(Request(Prompt([i]), GenerationOptions(max_new_tokens=100), i))
        for result in run(engine):
            i = result.ticket - 1
            assert result.tokens == [follow([i] + [0] * n, ()) for n in range(100)]
        assert (calls(model) < 70) == guesses


def test_times_scatter_and_outliers_are_nothing_to_go_by():
    costs, drafter, rng = Costs(), PromptLookup(), np.random.default_rng(0)
    for _ in range(200):
        slow = 20 if rng.random() < 0.05 else 1
        costs.note_plain(1, 0.010 * slow * rng.uniform(1, 1.1))
        costs.note(drafter, 1, 7, 0.013 * slow * rng.uniform(1, 1.1))
    assert costs.ratio(drafter, 1, 7) == pytest.approx(1.3, rel=0.12)
    assert costs.ratio(drafter, 1, 3) == check_cost(1, 3)


def test_a_first_measurement_that_was_disturbed_is_made_again():
    text = [3, 4, 5, 6] * 100
    model = Scripted(lambda ids, source: text[len(ids)], slope=0.03, vocab_size=10, max_length=420)
    costs, lookup = Costs(model.clock), PromptLookup()
    for _ in range(5):
        costs.note_plain(1, 10.0)
    for count in (1, 3):
        costs.note(lookup, 1, count, 150.0)
    one(model, Prompt(text[:6]), [lookup], GenerationOptions(max_new_tokens=390), costs)
    assert calls(model) < 250


def test_a_record_tells_runs_from_chance():
    steady, chance, rng = Record(), Record(), np.random.default_rng(0)
    for _ in range(400):
        steady.note(bool(rng.random() < 0.95))
        chance.note(bool(rng.random() < 0.05))
    assert steady.expected(7) > 3
    assert chance.expected(7) < 0.4
