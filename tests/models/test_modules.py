import dataclasses
import inspect

import pytest
import torch

from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.nn import TransformerConfig
from models.toy_batches import (
    TINY,
    VOCAB_SIZE,
    decoder_only_batch,
    encoder_decoder_batch,
    pairs,
    tiny_decoder_only,
    tiny_encoder_decoder,
)


@pytest.mark.parametrize("cls", [EncoderDecoder, DecoderOnly])
def test_arguments_are_those_of_the_configuration(cls):
    parameters = inspect.signature(cls).parameters
    for field in dataclasses.fields(TransformerConfig):
        assert parameters[field.name].annotation == field.type
        if field.name != "vocab_size":
            assert parameters[field.name].default == field.default
    described = cls.__doc__.partition("Args:")[2]
    assert all(f"        {name}: " in described for name in parameters)
    for name, parameter in inspect.signature(SequenceModule).parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameters[name].default == parameter.default


def test_hyperparameters_are_plain_and_make_the_module_again():
    module = tiny_encoder_decoder(optimizer=torch.optim.SGD, scheduler=torch.optim.lr_scheduler.StepLR)
    assert all(value is None or isinstance(value, (bool, int, float, str)) for value in module.hparams.values())
    again = EncoderDecoder(**module.hparams)
    again.load_state_dict(module.state_dict())


def test_encoder_decoder_shapes_and_depths():
    module = tiny_encoder_decoder(num_layers=2, num_decoder_layers=1)
    assert (len(module.encoder.layers), len(module.decoder.layers)) == (2, 1)
    assert len(tiny_encoder_decoder(num_layers=2).decoder.layers) == 2
    batch = encoder_decoder_batch(pairs(3, seed=0))
    logits = module(batch["input_ids"], batch["decoder_input_ids"], batch["attention_mask"])
    assert logits.shape == (*batch["labels"].shape, VOCAB_SIZE)


@pytest.mark.parametrize(("shared", "tied", "tables"), [(True, True, 1), (False, True, 2), (True, False, 2)])
def test_token_tables(shared, tied, tables):
    module = tiny_encoder_decoder(share_embeddings=shared, tie_embeddings=tied)
    assert (module.encoder.embedding is module.decoder.embedding) is shared
    wide = [parameter for parameter in module.parameters() if parameter.shape == (VOCAB_SIZE, TINY["embed_dim"])]
    assert len(wide) == tables


def test_forward_and_hidden_states_agree():
    batch = decoder_only_batch(pairs(3, seed=0))
    for module in (tiny_decoder_only(), tiny_decoder_only(prefix_lm=True)):
        module.eval()
        prefix = batch["prefix_lengths"] if module.prefix_lm else None
        logits = module(batch["input_ids"], prefix_lengths=prefix)
        torch.testing.assert_close(module.decoder.logits(module.hidden_states(batch)), logits)


def test_prefix_lm_sees_its_prefix_whole_and_a_causal_model_does_not():
    batch = decoder_only_batch([([7, 8, 9], [10, 11])])
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 2] = 15  # inside the prefix, behind position 0
    for prefix_lm in (True, False):
        module = tiny_decoder_only(prefix_lm=prefix_lm).eval()
        moved = not torch.equal(module.hidden_states(batch)[0, 0], module.hidden_states(changed)[0, 0])
        assert moved is prefix_lm


def test_prefix_lm_says_what_its_data_lacks():
    batch = decoder_only_batch(pairs(2, seed=0))
    del batch["prefix_lengths"]
    with pytest.raises(ValueError, match=r"no prefix_lengths \(it has input_ids, attention_mask, labels\)"):
        tiny_decoder_only(prefix_lm=True).hidden_states(batch)


def test_prompts_are_what_stands_before_the_first_label():
    rows = [([7, 8], [9, 10, 11]), ([12], [13])]
    assert tiny_encoder_decoder().prompts(encoder_decoder_batch(rows)) == [[7, 8, 2], [12, 2]]
    batch = decoder_only_batch(rows)
    assert tiny_decoder_only().prompts(batch) == [[1, 7, 8, 4], [1, 12, 4]]
    del batch["prefix_lengths"]
    assert tiny_decoder_only().prompts(batch) == [[1, 7, 8, 4], [1, 12, 4]]


def test_wrong_shapes_are_one_line():
    with pytest.raises(ValueError, match="embed_dim 16 is no multiple of num_heads 3"):
        tiny_encoder_decoder(num_heads=3)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        SequenceModule(vocab_size=1, max_seq_len=1)
