"""Which token a row gets: samples, penalties, log-probabilities."""

import numpy as np
import pytest

from generation.test_engine import END, generate, random_prompts, tokens
from generation.toy_model import ToyModel
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run


def test_several_samples_of_one_prompt_are_rows_that_begin_alike():
    prompts = random_prompts(5, seed=8)
    options = GenerationOptions(max_new_tokens=9, temperature=1.3, seed=4, num_return_sequences=3)
    model = ToyModel()
    found = generate(prompts, options, model=model, max_rows=7)
    assert sum(rows for kind, rows in model.calls if kind == "admit") == 5
    sequences = [[result.tokens, *(other.tokens for other in result.others)] for result in found]
    assert all(len(group) == 3 for group in sequences)
    one = GenerationOptions(max_new_tokens=9, temperature=1.3, seed=4)
    assert [group[0] for group in sequences] == tokens(generate(prompts, one))
    assert any(len({tuple(ids) for ids in group}) == 3 for group in sequences)
    alone = generate(prompts, options, max_rows=3)
    assert [[r.tokens, *(o.tokens for o in r.others)] for r in alone] == sequences


@pytest.mark.parametrize("penalty", [1.0, 3.0])
@pytest.mark.parametrize("count", [2, 3])
def test_the_first_token_of_a_sample_is_drawn_from_untouched_scores(count, penalty):
    common = {"max_new_tokens": 3, "temperature": 1.3, "repetition_penalty": penalty, "min_new_tokens": 3}
    for seed, prompt in enumerate(random_prompts(20, seed=5)):
        several = GenerationOptions(**common, seed=seed, logprobs=True, num_return_sequences=count)
        single = GenerationOptions(**common, seed=seed, logprobs=True)
        (found,), (wanted,) = generate([prompt], several), generate([prompt], single)
        assert found.tokens == wanted.tokens
        assert found.log_probs == pytest.approx(wanted.log_probs)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.8}, {"top_k": 4}, {"top_p": 0.7, "temperature": 1.3}, {"min_p": 0.2}]
)
def test_samples_do_not_depend_on_the_batch(options):
    chosen = GenerationOptions(max_new_tokens=12, seed=5, **options)
    prompts = random_prompts(10)
    alone = tokens(generate(prompts, chosen, max_rows=1))
    assert tokens(generate(prompts, chosen, max_rows=4)) == alone
    engine = Engine(ToyModel(), (END,))
    for i in reversed(range(10)):
        engine.submit(Request(prompts[i], chosen, i))
    assert tokens(run(engine))[::-1] == alone
    assert tokens(generate(prompts, GenerationOptions(max_new_tokens=12, seed=6, **options))) != alone


def test_equal_prompts_of_one_call_differ_when_sampled():
    found = tokens(generate([Prompt([3, 4])] * 6, GenerationOptions(max_new_tokens=12, temperature=1.5, seed=0)))
    assert len({tuple(ids) for ids in found}) > 1


def test_sampling_follows_the_probabilities():
    model = ToyModel()
    options = GenerationOptions(max_new_tokens=1, temperature=0.9, seed=11)
    found = generate([Prompt([5])] * 4000, options, model=model, max_rows=512, end=())
    counts = np.bincount([result.tokens[0] for result in found], minlength=11) / 4000
    logits = model.logits([5]) / 0.9
    wanted = np.exp(logits - logits.max())
    assert np.abs(counts - wanted / wanted.sum()).max() < 0.03


def test_greedy_and_sampled_requests_share_a_batch():
    prompts = random_prompts(6)
    greedy = GenerationOptions(max_new_tokens=10)
    sampled = GenerationOptions(max_new_tokens=10, temperature=1.0, seed=1)
    engine = Engine(ToyModel(), (END,))
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, sampled if i % 2 else greedy, i))
    found = tokens(run(engine))
    assert found[::2] == tokens(generate(prompts[::2], greedy))
    assert found[1::2] == [
        generate([prompts[0]] * i + [prompts[i]], sampled, max_rows=1)[-1].tokens for i in range(1, 6, 2)
    ]


def brute_force(model, prompt, steps, penalty=1.0, ngram=0, least=0):
    """The definition of the penalties, with plain lists."""
    ids = list(prompt.ids)
    while len(ids) - len(prompt.ids) < steps:
        logits = model.logits(ids).astype(np.float64)
        for token in set(ids):
            logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
        if ngram:
            for i in range(len(ids) - ngram + 1):
                if ids[i : i + ngram - 1] == ids[len(ids) - ngram + 1 :]:
                    logits[ids[i + ngram - 1]] = -np.inf
        if len(ids) - len(prompt.ids) < least:
            logits[END] = -np.inf
        token = int(logits.argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt.ids) :]


@pytest.mark.parametrize(
    ("options", "definition"),
    [
        ({"repetition_penalty": 1.4}, {"penalty": 1.4}),
        ({"repetition_penalty": 0.7}, {"penalty": 0.7}),
        ({"no_repeat_ngram_size": 1}, {"ngram": 1}),
        ({"no_repeat_ngram_size": 2}, {"ngram": 2}),
        ({"no_repeat_ngram_size": 3, "repetition_penalty": 1.1}, {"ngram": 3, "penalty": 1.1}),
        ({"min_new_tokens": 8}, {"least": 8}),
    ],
)
def test_penalties_follow_their_definition(options, definition):
    prompts = random_prompts(12, seed=4)
    steps = 7 if "no_repeat_ngram_size" in options else 20
    found = generate(prompts, GenerationOptions(max_new_tokens=max(steps, 8), **options), max_rows=5)
    assert tokens(found) == [brute_force(ToyModel(), prompt, max(steps, 8), **definition) for prompt in prompts]


@pytest.mark.parametrize("has_top_k", [False, True])
@pytest.mark.parametrize("extra", [{}, {"repetition_penalty": 1.3}, {"temperature": 0.7, "seed": 3}])
def test_log_probs_are_the_models_own(has_top_k, extra):
    model = ToyModel(has_top_k=has_top_k)
    prompts = random_prompts(6)
    found = generate(prompts, GenerationOptions(max_new_tokens=10, top_logprobs=3, **extra), model=model)
    for prompt, result in zip(prompts, found, strict=True):
        ids = list(prompt.ids)
        for token, log_prob, best in zip(result.tokens, result.log_probs, result.alternatives, strict=True):
            logits = model.logits(ids)
            wanted = logits - np.log(np.exp(logits).sum())
            np.testing.assert_allclose(log_prob, wanted[token], atol=1e-5)
            assert [i for i, _ in best] == np.argsort(-wanted, kind="stable")[:3].tolist()
            np.testing.assert_allclose([p for _, p in best], np.sort(wanted)[::-1][:3], atol=1e-5)
            ids.append(token)
        logits = model.logits(ids)
        end = (logits - np.log(np.exp(logits).sum()))[END] if result.finish_reason == "eos" else 0.0
        np.testing.assert_allclose(result.score, sum(result.log_probs) + end, atol=1e-4)


def test_the_model_is_asked_for_its_best_tokens_only_when_they_are_wanted():
    model = ToyModel(has_top_k=True)
    generate(random_prompts(3), model=model)
    assert set(model.asked) == {0}
    model = ToyModel(has_top_k=True)
    generate(random_prompts(3), GenerationOptions(max_new_tokens=5, top_logprobs=4), model=model)
    assert set(model.asked) == {4}


def test_nothing_is_noted_unless_asked_for():
    result = generate(random_prompts(1))[0]
    assert (result.score, result.log_probs, result.alternatives) == (None, None, None)


@pytest.mark.parametrize("more", [{}, {"temperature": 1.0, "seed": 3, "num_return_sequences": 3}])
def test_a_row_ends_where_everything_is_forbidden(more):
    options = GenerationOptions(max_new_tokens=40, no_repeat_ngram_size=1, logprobs=True, **more)
    for result in generate([Prompt([5]), Prompt([6, 3])], options, end=()):
        for each in (result, *result.others):
            used = [*((5,) if result.ticket == 1 else (6, 3)), *each.tokens]
            assert sorted(used) == list(range(11))  # every token of the vocabulary, once
            assert (each.finish_reason, len(each.log_probs)) == ("length", len(each.tokens))
            assert each.score == pytest.approx(sum(each.log_probs))
