"""Beam search against a search that looks at every sequence, and against a plain one that keeps no rows."""

import itertools

import numpy as np
import pytest

from generation.test_engine import END, random_prompts
from generation.toy_model import ToyModel
from litseq.errors import UsageError
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run


def search(prompts, *, model=None, end=(END,), max_rows=64, request=None, **options):
    """The sequences of each prompt as (tokens, score), best first."""
    engine = Engine(model or ToyModel(), end, max_rows=max_rows)
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, GenerationOptions(**options), i, **(request or {})))
    return [[(r.tokens, r.score) for r in (result, *result.others)] for result in run(engine)]


def log_probs(model, ids, source=()):
    logits = model.logits(ids, source).astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def every_sequence(model, prompt, steps, length_penalty, end=END):
    """All outputs of at most `steps` tokens with their scores, best first."""
    found = []
    for length in range(1, steps + 1):
        for tokens in itertools.product(range(model.vocab_size), repeat=length):
            if end in tokens[:-1] or (tokens[-1] != end and length < steps):
                continue
            total = sum(log_probs(model, [*prompt.ids, *tokens[:i]])[t] for i, t in enumerate(tokens))
            found.append(([t for t in tokens if t != end], total / length**length_penalty))
    return sorted(found, key=lambda pair: -pair[1])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5, -1.0])
def test_enough_beams_find_the_best_of_all_sequences(length_penalty):
    model = ToyModel(vocab_size=4, seed=3)
    prompts = [Prompt([3, 1]), Prompt([0])]
    found = search(
        prompts, model=model, max_rows=300, max_new_tokens=4, num_beams=150, num_return_sequences=9,
        length_penalty=length_penalty, early_stopping="never",
    )  # fmt: skip
    for prompt, sequences in zip(prompts, found, strict=True):
        wanted = every_sequence(ToyModel(vocab_size=4, seed=3), prompt, 4, length_penalty)[:9]
        assert [tokens for tokens, _ in sequences] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([s for _, s in sequences], [s for _, s in wanted], atol=1e-5)


def plain_search(prompt, *, beams, steps, ends=(END,), penalty=1.0, early=False, groups=1, diversity=0.0):
    """The definition, one list of beginnings after the other, every score from nothing."""
    model, size = ToyModel(), beams // groups
    running = [[([], 0.0)] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    over = [False] * groups
    for length in range(1, steps + 1):
        chosen = []
        for g in range(groups):
            if over[g]:
                continue
            options = []
            for tokens, total in running[g]:
                values = log_probs(model, [*prompt.ids, *tokens], prompt.source or ())
                options += [
                    ([*tokens, t], total + v - diversity * chosen.count(t)) for t, v in enumerate(values.tolist())
                ]
            options = sorted(options, key=lambda pair: -pair[1])[: max(2, 1 + len(ends)) * size]
            ending = [t[-1] in ends or length == steps for t, _ in options]
            finished[g] += [
                ([t for t in tokens if t not in ends], total / length**penalty)
                for (tokens, total), ends_now in zip(options[:size], ending[:size], strict=True)
                if ends_now
            ]
            finished[g] = sorted(finished[g], key=lambda pair: -pair[1])[:size]
            running[g] = [option for option, ends_now in zip(options, ending, strict=True) if not ends_now][:size]
            chosen += [tokens[-1] for tokens, _ in running[g]]
            if not running[g]:
                over[g] = True
            elif len(finished[g]) == size:
                at = steps if early == "never" and penalty > 0 else length
                over[g] = early is True or running[g][0][1] / at**penalty <= finished[g][-1][1]
    return sorted(itertools.chain(*finished), key=lambda pair: -pair[1])


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (5, 1.7), (3, -0.5)])
def test_beams_follow_their_definition(early, beams, penalty):
    prompts = [*random_prompts(8), Prompt([1], [5, 6, 7]), Prompt([1], [9])]
    found = search(
        prompts, max_new_tokens=9, num_beams=beams, num_return_sequences=beams, early_stopping=early,
        length_penalty=penalty,
    )  # fmt: skip
    for prompt, sequences in zip(prompts, found, strict=True):
        wanted = plain_search(prompt, beams=beams, steps=9, penalty=penalty, early=early)
        assert [tokens for tokens, _ in sequences] == [tokens for tokens, _ in wanted][: len(sequences)]
        np.testing.assert_allclose([s for _, s in sequences], [s for _, s in wanted][: len(sequences)], atol=1e-5)


def test_several_end_tokens():
    prompts = random_prompts(6, seed=2)
    found = search(prompts, end=(2, 4, 7), max_new_tokens=8, num_beams=3, num_return_sequences=2)
    for prompt, sequences in zip(prompts, found, strict=True):
        wanted = plain_search(prompt, beams=3, steps=8, ends=(2, 4, 7))[:2]
        assert [tokens for tokens, _ in sequences] == [tokens for tokens, _ in wanted]


def test_diverse_groups():
    prompts = random_prompts(8, seed=5)
    options = {"max_new_tokens": 8, "num_beams": 6, "num_return_sequences": 6}
    found = search(prompts, num_beam_groups=3, diversity_penalty=0.7, **options)
    for prompt, sequences in zip(prompts, found, strict=True):
        wanted = plain_search(prompt, beams=6, steps=8, groups=3, diversity=0.7)
        assert [tokens for tokens, _ in sequences] == [tokens for tokens, _ in wanted][: len(sequences)]
    apart = search(prompts, num_beam_groups=3, diversity_penalty=9.0, **options)
    assert all(len({tokens[0] if tokens else END for tokens, _ in sequences}) >= 3 for sequences in apart)


@pytest.mark.parametrize("has_top_k", [False, True])
@pytest.mark.parametrize("max_rows", [4, 9, 64])
def test_beams_do_not_depend_on_the_batch(has_top_k, max_rows):
    prompts = random_prompts(11, seed=9)
    options = {"max_new_tokens": 9, "num_beams": 4, "num_return_sequences": 3}
    model = ToyModel(has_top_k=has_top_k)
    found = search(prompts, model=model, max_rows=max_rows, **options)
    for prompt, sequences in zip(prompts, found, strict=True):
        assert [t for t, _ in search([prompt], **options)[0]] == [t for t, _ in sequences]
    assert max(rows for kind, rows in model.calls if kind == "advance") <= max(max_rows, 4)


def test_beams_greedy_rows_and_samples_share_a_batch():
    kinds = [
        {"num_beams": 3, "num_return_sequences": 2},
        {},
        {"temperature": 1.1, "seed": 3, "num_return_sequences": 2},
        {"num_beams": 2, "repetition_penalty": 1.4},
        {"logprobs": True, "top_logprobs": 2},
    ]
    prompts = random_prompts(15, seed=1)
    requests = [
        Request(prompt, GenerationOptions(max_new_tokens=4 + i, **kinds[i % len(kinds)]), i)
        for i, prompt in enumerate(prompts)
    ]

    def outputs(*requests):
        engine = Engine(ToyModel(has_top_k=True), (END,), max_rows=8)
        for request in requests:
            engine.submit(request)
        return [[r.tokens, r.log_probs, *(o.tokens for o in r.others)] for r in run(engine)]

    assert outputs(*requests) == [outputs(request)[0] for request in requests]


def test_only_rows_whose_parent_changed_move():
    model = ToyModel()
    search(random_prompts(4), model=model, max_new_tokens=12, num_beams=4)
    steps = [rows for kind, rows in model.calls if kind == "advance"]
    assert 0 < model.moved < sum(steps) / 2


@pytest.mark.parametrize("changed", [{}, {"bad_words": [[t] for t in range(1, 11, 2)]}, {"repetition_penalty": 3.0}])
def test_log_probs_and_alternatives_of_a_beam(changed):
    prompt = Prompt([5, 3])
    engine = Engine(ToyModel(), (END,))
    options = GenerationOptions(max_new_tokens=7, num_beams=3, top_logprobs=2, length_penalty=0.0, **changed)
    engine.submit(Request(prompt, options))
    (result,) = run(engine)
    model = ToyModel()
    values = [log_probs(model, [*prompt.ids, *result.tokens[:i]]) for i in range(len(result.tokens))]
    np.testing.assert_allclose(result.log_probs, [v[t] for v, t in zip(values, result.tokens, strict=True)], atol=1e-5)
    for pairs, row in zip(result.alternatives, values, strict=True):
        assert [token for token, _ in pairs] == np.argsort(-row)[:2].tolist()
    ended = log_probs(model, [*prompt.ids, *result.tokens])[END] if result.finish_reason == "eos" else 0.0
    if "repetition_penalty" not in changed:
        assert result.score == pytest.approx(sum(result.log_probs) + ended, abs=1e-5)


def test_allowed_tokens_and_bad_words_hold_in_a_search():
    prompts = random_prompts(6)
    seen = []

    def even(ids):
        seen.append(list(ids))
        return [0, 2, 4, 6, 8, 10]

    found = search(prompts, max_new_tokens=6, num_beams=3, prefix_allowed_tokens=even, bad_words=[[4], [6, 8]])
    for [(tokens, _)] in found:
        assert not set(tokens) & {1, 3, 4, 5, 7, 9}
        assert (6, 8) not in itertools.pairwise(tokens)
    assert [] in seen and max(map(len, seen)) == 5
    forced = [Prompt([*p.ids, 7, 8], forced=2) for p in prompts]
    seen.clear()
    search(forced, max_new_tokens=3, num_beams=2, prefix_allowed_tokens=even)
    assert all(ids[:2] == [7, 8] for ids in seen)


def test_a_search_with_nothing_left_ends():
    found = search([Prompt([5])], max_new_tokens=6, num_beams=3, prefix_allowed_tokens=lambda ids: [3] if len(ids) < 2 else [END])  # fmt: skip
    assert [tokens for tokens, _ in found[0]] == [[3, 3]]
    with pytest.raises(UsageError, match="prefix_allowed_tokens gave"):
        search([Prompt([5])], max_new_tokens=6, num_beams=3, prefix_allowed_tokens=lambda ids: [])


@pytest.mark.parametrize("more", [{}, {"num_beam_groups": 2, "diversity_penalty": 0.5}])
def test_a_search_in_which_everything_is_forbidden_gives_what_it_has(more):
    heard = []
    options = GenerationOptions(
        max_new_tokens=40, num_beams=4, num_return_sequences=4, no_repeat_ngram_size=1, logprobs=True, **more
    )
    engine = Engine(ToyModel(), (END,))
    # The end token is used up too.
    engine.submit(Request(Prompt([5, END]), options, on_token=lambda token: bool(heard.append(token))))
    (result,) = run(engine)
    for each in (result, *result.others):
        assert sorted([5, END, *each.tokens]) == list(range(11))
        assert (each.finish_reason, len(each.log_probs)) == ("length", 9)
        assert -100 < each.score < sum(each.log_probs) / 9 + 1e-5  # a diverse search subtracts its penalties
    assert heard == result.tokens


def test_every_prompt_has_as_many_outputs_as_were_asked_for():
    prompts = [Prompt([5]), Prompt([6, 3])]
    options = {"max_new_tokens": 4, "num_beams": 4, "num_return_sequences": 4}
    found = search(prompts, **options, prefix_allowed_tokens=lambda ids: [END] if ids else [3, END])
    for sequences in found:
        assert sorted(tokens for tokens, score in sequences if score > -np.inf) == [[], [3]]
        assert sequences[2:] == [([], -np.inf)] * 2


def test_a_search_stops_where_an_output_is_complete():
    prompts = random_prompts(6, seed=4)
    found = search(
        prompts, end=(), max_new_tokens=12, num_beams=3, num_return_sequences=3, request={"stops": lambda ids: 6 in ids}
    )
    for sequences in found:
        for tokens, _ in sequences:
            assert 6 not in tokens[:-1]


def test_a_listener_hears_what_all_beams_agree_on():
    for prompt in random_prompts(10, seed=7):
        engine, heard = Engine(ToyModel(), (END,)), []
        options = GenerationOptions(max_new_tokens=15, num_beams=3)
        engine.submit(Request(prompt, options, on_token=lambda token, to=heard: bool(to.append(token))))
        results = []
        while not engine.idle:
            results += engine.step()
        assert heard == results[0].tokens


def test_a_search_can_be_cancelled():
    engine = Engine(ToyModel(), ())
    options = GenerationOptions(max_new_tokens=20, num_beams=3, num_return_sequences=2)
    tickets = [engine.submit(Request(prompt, options)) for prompt in random_prompts(3)]
    for _ in range(4):
        engine.step()
    result = engine.cancel(tickets[1])
    assert (result.finish_reason, len(result.tokens), len(result.others)) == ("cancelled", 4 + 1, 1)
    assert [r.ticket for r in run(engine)] == [tickets[0], tickets[2]]


@pytest.mark.parametrize("groups", [{}, {"num_beam_groups": 2, "diversity_penalty": 0.5}])
def test_whenever_a_search_is_cancelled_all_it_gives_says_so(groups):
    options = GenerationOptions(max_new_tokens=20, num_beams=4, num_return_sequences=3, **groups)
    for prompt, steps in itertools.product(random_prompts(10, seed=7), range(12)):
        engine, heard = Engine(ToyModel(), (END,), max_rows=4), []
        engine.submit(Request(Prompt([5]), GenerationOptions(max_new_tokens=2)))
        ticket = engine.submit(Request(prompt, options, on_token=lambda token, to=heard: bool(to.append(token))))
        for _ in range(steps):
            engine.step()
        if (result := engine.cancel(ticket)) is not None:
            assert [r.finish_reason for r in (result, *result.others)] == ["cancelled"] * 3
            assert heard == result.tokens
