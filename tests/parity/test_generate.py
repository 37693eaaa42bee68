"""`Generator` against `generate` of transformers, token by token, on exported models with the same weights."""

import numpy as np
import pytest
import torch

from litseq.export import export_bundle
from litseq.runtime import Generator
from litseq.text import PromptFormat, Tokenizer
from parity.copied import llama, marian

pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=[llama, marian], ids=["decoder-only", "encoder-decoder"])
def pair(request, tmp_path_factory):
    theirs, module = request.param()
    # Several tokens shall be likely: the norms in front of the output heads made smaller make logits smaller.
    last = module.decoder.final_norm if request.param is llama else module.decoder.layers[-1].feed_forward_norm
    other = theirs.model.norm if request.param is llama else theirs.model.decoder.layers[-1].final_layer_norm
    with torch.no_grad():
        for parameter in (*last.parameters(), *other.parameters()):
            parameter *= 0.1
    start = () if request.param is llama else (1,)
    directory = tmp_path_factory.mktemp("bundle") / "bundle"
    tokenizer = Tokenizer.train(["abc"], vocab_size=8, kind="char")
    export_bundle(module, tokenizer, directory, prompt_format=PromptFormat(start_ids=start))
    generator = Generator.from_bundle(directory, threads=1)
    # The end token is one that these random weights like to say.
    said = np.bincount(np.concatenate([c.token_ids[2:] for c in generator.generate(prompts(), max_new_tokens=14)]))
    generator._end_tokens = (int(said.argmax()),)
    theirs.generation_config.eos_token_id = int(said.argmax())
    theirs.generation_config.pad_token_id = 0
    return theirs, generator


def prompts(count=7):
    rng = np.random.default_rng(0)
    return [rng.integers(3, 97, rng.integers(2, 12)).tolist() for _ in range(count)]


@torch.no_grad()
def expected(theirs, prompt, count, **options):
    skip = 1 if theirs.config.is_encoder_decoder else len(prompt)
    out = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), max_new_tokens=count,
        return_dict_in_generate=True, output_scores=True, do_sample=False, **options,
    )  # fmt: skip
    sequences = [row[skip:] for row in out.sequences.tolist()]
    end = theirs.generation_config.eos_token_id
    cut = [row[: row.index(end)] if end in row else row for row in sequences]
    return cut, None if options.get("num_beams", 1) == 1 else out.sequences_scores.tolist()


OPTIONS = {
    "greedy": {},
    "greedy with penalties": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 5},
    "beam 4": {"num_beams": 4},
    "beam 5": {"num_beams": 5, "num_return_sequences": 5, "length_penalty": 0.6},
    "beam 4, early": {"num_beams": 4, "num_return_sequences": 2, "early_stopping": True},
    "beam 4, never early": {"num_beams": 4, "num_return_sequences": 3, "early_stopping": "never", "length_penalty": 2.0},
    "beam 5 with penalties": {"num_beams": 5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "length_penalty": -1.0},
    "beam 4, longer": {"num_beams": 4, "min_new_tokens": 8},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_tokens_and_scores_are_those_of_transformers(pair, options):
    theirs, generator = pair
    found = generator.generate(prompts(), max_new_tokens=14, batch_size=24, **options)
    count = options.get("num_return_sequences", 1)
    ended = 0
    for i, prompt in enumerate(prompts()):
        ours = found[i * count : (i + 1) * count]
        tokens, scores = expected(theirs, prompt, 14, **options)
        assert [completion.token_ids for completion in ours] == tokens
        if scores is not None:
            np.testing.assert_allclose([completion.score for completion in ours], scores, atol=1e-4, rtol=1e-5)
        ended += sum(completion.finish_reason == "eos" for completion in ours)
    assert ended or options.get("length_penalty", 1.0) > 1  # such a search prefers long outputs


def test_bad_words_and_allowed_tokens(pair):
    theirs, generator = pair
    plain = generator.generate(prompts(), max_new_tokens=10, num_beams=4)
    said = [completion.token_ids for completion in plain if len(completion.token_ids) > 2]
    words = [[said[0][0]], [said[1][1]], said[2][:2]]
    allowed = [*range(2, 97, 3), *range(0, 97, 4)]
    for ours, theirs_too in (
        ({"bad_words": words}, {"bad_words_ids": words}),
        ({"prefix_allowed_tokens": lambda ids: allowed}, {"prefix_allowed_tokens_fn": lambda batch, ids: allowed}),
    ):
        found = generator.generate(prompts(), max_new_tokens=10, num_beams=4, **ours)
        for prompt, completion in zip(prompts(), found, strict=True):
            assert completion.token_ids == expected(theirs, prompt, 10, num_beams=4, **theirs_too)[0][0]
        assert [c.token_ids for c in found] != [c.token_ids for c in plain]


def test_a_forced_beginning(pair):
    theirs, generator = pair
    forced = [11, 12, 13]
    found = generator.generate(prompts(), max_new_tokens=8, num_beams=4, prefix=forced)
    for prompt, completion in zip(prompts(), found, strict=True):
        if theirs.config.is_encoder_decoder:
            options = {"decoder_input_ids": torch.tensor([[1, *forced]])}
            wanted = expected(theirs, prompt, 8, num_beams=4, **options)[0][0]
        else:
            wanted = forced + expected(theirs, [*prompt, *forced], 8, num_beams=4)[0][0]
        assert completion.token_ids == wanted
