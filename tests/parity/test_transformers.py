"""Our blocks with the weights of Hugging Face models give the logits of Hugging Face models."""

import pytest
import torch

from litseq.nn import TransformerConfig, TransformerDecoder
from parity.copied import copy, llama, marian, noise

transformers = pytest.importorskip("transformers")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


@torch.no_grad()
def test_llama_with_grouped_heads() -> None:
    theirs, module = llama()
    ours = module.decoder
    ids = torch.randint(0, 97, (3, 21))
    torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_gpt2() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    noise(theirs)
    ours = TransformerDecoder(
        TransformerConfig(
            vocab_size=97,
            embed_dim=48,
            num_layers=3,
            num_heads=4,
            max_seq_len=64,
            norm="layer",
            norm_eps=1e-5,
            activation="gelu_tanh",
            position="learned",
            bias=True,
            dropout=0.0,
        )
    ).eval()
    copy(ours.embedding, theirs.transformer.wte.weight)
    copy(ours.positions.table, theirs.transformer.wpe.weight)
    copy(ours.final_norm, theirs.transformer.ln_f.weight, theirs.transformer.ln_f.bias)
    for layer, source in zip(ours.layers, theirs.transformer.h, strict=True):
        copy(layer.attention.qkv, source.attn.c_attn.weight.T, source.attn.c_attn.bias)
        copy(layer.attention.out, source.attn.c_proj.weight.T, source.attn.c_proj.bias)
        copy(layer.attention_norm, source.ln_1.weight, source.ln_1.bias)
        copy(layer.feed_forward_norm, source.ln_2.weight, source.ln_2.bias)
        copy(layer.feed_forward.up, source.mlp.c_fc.weight.T, source.mlp.c_fc.bias)
        copy(layer.feed_forward.down, source.mlp.c_proj.weight.T, source.mlp.c_proj.bias)
    ids = torch.randint(0, 97, (3, 21))
    torch.testing.assert_close(ours.logits(ours(ids)), theirs(ids).logits, **TOLERANCE)


@torch.no_grad()
def test_marian_with_padded_sources() -> None:
    theirs, module = marian()
    encoder, decoder = module.encoder, module.decoder
    source, target = torch.randint(3, 97, (3, 13)), torch.randint(3, 97, (3, 9))
    mask = torch.arange(13) < torch.tensor([13, 5, 8])[:, None]
    expected = theirs(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    ours = decoder.logits(decoder(target, memory=encoder(source, mask), memory_mask=mask))
    torch.testing.assert_close(ours, expected, **TOLERANCE)
