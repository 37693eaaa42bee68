"""A smaller model guesses: what it guesses changes nothing but the time."""

import numpy as np
import pytest

from generation.scripted import END, Scripted, calls, eager, one, prompts_of, slow_until
from generation.toy_model import ToyModel, slow_greedy
from litseq.generation import Engine, GenerationOptions, Prompt, Request, run
from litseq.generation.draft_model import DraftModel
from litseq.generation.drafts import PromptLookup, Record
from litseq.generation.speculation import Costs


def draft_times(follow, guess, step, draft_slope=0.05, most=200):
    model = Scripted(follow, vocab_size=300, max_length=300)
    draft = Scripted(guess, step=step, slope=draft_slope, vocab_size=300, max_length=300)
    costs = Costs(lambda: model.now + draft.now)
    result = one(model, Prompt([7, 8, 9]), [DraftModel(draft)], GenerationOptions(max_new_tokens=most), costs)
    assert result.tokens == slow_until(model, Prompt([7, 8, 9]), most, {END})
    return model, model.now + draft.now


def fresh(ids, source):
    return 3 + (len(ids) * 37 + 11 * (len(ids) // 7)) % 251


def test_a_draft_model_that_is_right_saves_calls():
    model, seconds = draft_times(fresh, fresh, step=1.0)
    assert calls(model) < 50
    assert seconds < 10.0 * 200 / 1.8


def test_a_draft_model_that_is_wrong_loses_little():
    _, seconds = draft_times(fresh, lambda ids, source: 3, step=1.0)
    assert seconds < 1.05 * 10.0 * 200


def test_a_draft_model_that_is_as_slow_as_the_model_is_left_alone():
    _, seconds = draft_times(fresh, fresh, step=10.0)
    assert seconds < 1.05 * 10.0 * 200


@pytest.mark.parametrize("reads_in_chunks", [True, False])
@pytest.mark.parametrize("length", [64, 25])
def test_a_draft_model_follows_rows_that_come_and_go(reads_in_chunks, length):
    """The model itself as its draft: whatever happens to rows, every guess comes true."""
    rng = np.random.default_rng(9)
    model, draft = ToyModel(), ToyModel(max_length=length)
    draft.reads_in_chunks = reads_in_chunks
    drafter = DraftModel(draft)
    accepted = []

    class Watched:
        def update(self, rows):
            return [record and Record(0.9, 0.9) for record in drafter.update(rows)]

        def draft(self, rows, counts):
            guesses = drafter.draft(rows, counts)
            for row, guess, count in zip(rows, guesses, counts, strict=True):
                assert len(guess) <= count
                prompt = row.job.request.prompt
                ids = [*prompt.ids, *row.tokens]
                for token in guess:
                    accepted.append(token == int(model.logits(ids, prompt.source or ()).argmax()))
                    ids.append(token)
            return guesses

        def cost(self, rows, count):
            return 1.0

    engine = Engine(model, (END,), max_rows=4, drafters=[Watched()], costs=eager())
    prompts = prompts_of(rng, 30, with_source=True)
    waiting, results = list(enumerate(prompts)), []
    while waiting or not engine.idle:
        if waiting and rng.random() < 0.6:
            i, prompt = waiting.pop(0)
            kind = {"temperature": 1.0, "seed": 1} if i % 10 == 9 else {}
            engine.submit(Request(prompt, GenerationOptions(max_new_tokens=int(rng.integers(1, 50)), **kind), i))
        results += engine.step()
    assert len(results) == 30
    assert len(accepted) > 100
    assert all(accepted)
    for result in results:
        if result.ticket % 10:
            prompt = prompts[result.ticket - 1]
            assert result.tokens == slow_greedy(model, prompt, len(result.tokens), END)


@pytest.mark.parametrize("wrong", [ToyModel(seed=1), ToyModel(seed=6)])
def test_a_draft_model_changes_nothing(wrong):
    prompts = prompts_of(np.random.default_rng(2), 10)
    engine = Engine(ToyModel(), (END,), max_rows=3, drafters=[PromptLookup(), DraftModel(wrong)], costs=eager())
    for i, prompt in enumerate(prompts):
        engine.submit(Request(prompt, GenerationOptions(max_new_tokens=30), i))
    assert [result.tokens for result in run(engine)] == [slow_greedy(ToyModel(), p, 30, END) for p in prompts]


def test_a_draft_model_in_use_or_without_a_way_back_is_refused():
    recurrent = ToyModel()
    recurrent.can_rewind = False
    with pytest.raises(ValueError, match="able to shorten"):
        DraftModel(recurrent)
