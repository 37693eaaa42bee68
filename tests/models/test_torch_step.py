import itertools

import numpy as np
import pytest
import torch

from litseq.errors import UsageError
from litseq.generation import Prompt
from litseq.models.predict import generate_ids
from litseq.models.torch_step import TorchStepModel
from models.toy_batches import pairs, tiny_decoder_only, tiny_encoder_decoder


def prompts_of(module, count=5):
    if module.architecture == "encoder-decoder":
        return [[*source, 2] for source, _ in pairs(count, seed=3)]
    return [[1, *source, 4] for source, _ in pairs(count, seed=3)]


def modules():
    return [
        tiny_encoder_decoder(position="learned").eval(),
        tiny_decoder_only().eval(),
        tiny_decoder_only(prefix_lm=True).eval(),
    ]


def naive_greedy(module, prompt, steps):
    """One row, no padding, one forward a token, written without the loop."""
    source, ids = (prompt, [1]) if module.architecture == "encoder-decoder" else (None, list(prompt))
    out = []
    with torch.no_grad():
        for _ in range(steps):
            if source is not None:
                logits = module(torch.tensor([source]), torch.tensor([ids]))
            else:
                prefix = torch.tensor([len(prompt)]) if module.prefix_lm else None
                logits = module(torch.tensor([ids]), prefix_lengths=prefix)
            token = int(logits[0, -1].argmax())
            if token == 2:
                break
            out.append(token)
            ids.append(token)
    return out


@pytest.mark.parametrize("module", modules(), ids=["encoder-decoder", "causal", "prefix"])
def test_a_ragged_batch_gives_the_naive_tokens(module):
    prompts = prompts_of(module)
    options = {"max_new_tokens": 8}
    expected = [naive_greedy(module, prompt, 8) for prompt in prompts]
    assert generate_ids(module, prompts, options) == expected
    assert [generate_ids(module, [prompt], options)[0] for prompt in prompts] == expected


@pytest.mark.parametrize("module", modules(), ids=["encoder-decoder", "causal", "prefix"])
def test_a_forced_beginning_and_words_that_do_not_occur(module):
    prompts = prompts_of(module)
    plain = generate_ids(module, prompts, {"max_new_tokens": 8})
    long = next(i for i, ids in enumerate(plain) if len(ids) > 3)
    beginning = plain[long][:2]
    forced = generate_ids(module, prompts[long : long + 1], {"max_new_tokens": 6, "prefix": beginning})
    assert forced == [plain[long]]
    word = plain[long][:2]
    without = generate_ids(module, prompts[long : long + 1], {"max_new_tokens": 8, "bad_words": [word]})[0]
    assert tuple(word) not in itertools.pairwise(without)
    with pytest.raises(UsageError, match="'ab', and no tokenizer is known"):
        generate_ids(module, prompts, {"prefix": "ab"})


@pytest.mark.parametrize("module", modules(), ids=["encoder-decoder", "causal", "prefix"])
def test_rows_can_be_dropped_reordered_and_repeated(module):
    prompts = [
        Prompt([1], prompt) if module.architecture == "encoder-decoder" else Prompt(prompt)
        for prompt in prompts_of(module, 3)
    ]
    model = TorchStepModel(module)
    model.admit(prompts)
    model.read(0, [prompt.ids for prompt in prompts])
    before = model.advance(np.array([7, 8, 9])).logits
    model.keep(np.array([2, 0, 0]))
    after = model.advance(np.array([5, 5, 6])).logits
    assert model.rows == 3

    fresh = TorchStepModel(module)
    fresh.admit(prompts)
    fresh.read(0, [prompt.ids for prompt in prompts])
    np.testing.assert_allclose(fresh.advance(np.array([7, 8, 9])).logits, before)
    straight = fresh.advance(np.array([5, 0, 5])).logits
    np.testing.assert_allclose(after[:2], straight[[2, 0]], atol=1e-6)
    assert not np.allclose(after[1], after[2])


def test_new_rows_are_scored_alone():
    model = TorchStepModel(tiny_decoder_only().eval())
    model.admit([Prompt([1, 7]), Prompt([1])])
    assert model.read(0, [[1, 7], [1]]).logits.shape == (2, model.vocab_size)
    assert model.read(0, [[3, 4], [5]], every=True).logits.shape == (3, model.vocab_size)
    model.admit([Prompt([1])])
    assert model.read(2, [[1]]).logits.shape == (1, model.vocab_size)
    assert model.rows == 3
    model.keep(np.array([], dtype=np.int64))
    assert model.rows == 0


def test_what_it_refuses():
    with pytest.raises(ValueError, match="training mode"):
        TorchStepModel(tiny_decoder_only().train())
    with pytest.raises(UsageError, match="30 tokens, the model takes 24"):
        TorchStepModel(tiny_encoder_decoder().eval()).admit([Prompt([1], [5] * 30)])
