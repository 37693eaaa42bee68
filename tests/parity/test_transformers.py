"""Our blocks with the weights of Hugging Face models give the logits of Hugging Face models."""

import pytest
import torch
from torch import Tensor, nn

from litseq.nn import DecoderLayer, EncoderLayer, TransformerConfig, TransformerDecoder, TransformerEncoder

transformers = pytest.importorskip("transformers")
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def copy(target: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        target.weight.copy_(weight)
        if bias is not None:
            target.bias.copy_(bias)


def noise(model: nn.Module) -> None:
    """Initial weights are so small, and biases so zero, that much could be left out unseen."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def test_llama_with_grouped_heads() -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=5000.0,
        tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    noise(theirs)
    ours = TransformerDecoder(
        TransformerConfig(
            vocab_size=97,
            embed_dim=48,
            ffn_dim=80,
            num_layers=3,
            num_heads=6,
            num_kv_heads=2,
            max_seq_len=64,
            norm_eps=1e-5,
            rope_base=5000.0,
            tie_embeddings=False,
            dropout=0.0,
        )
    ).eval()
    copy(ours.embedding, theirs.model.embed_tokens.weight)
    copy(ours.final_norm, theirs.model.norm.weight)
    copy(ours.lm_head, theirs.lm_head.weight)
    for layer, source in zip(ours.layers, theirs.model.layers, strict=True):
        attention = source.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        copy(layer.attention.qkv, torch.cat([p.weight for p in projections]))
        copy(layer.attention.out, attention.o_proj.weight)
        copy(layer.attention_norm, source.input_layernorm.weight)
        copy(layer.feed_forward_norm, source.post_attention_layernorm.weight)
        copy(layer.feed_forward.gate, source.mlp.gate_proj.weight)
        copy(layer.feed_forward.up, source.mlp.up_proj.weight)
        copy(layer.feed_forward.down, source.mlp.down_proj.weight)
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


def copy_marian_layer(layer: EncoderLayer, source: nn.Module) -> None:
    pairs = [(layer.attention, source.self_attn, layer.attention_norm, source.self_attn_layer_norm)]
    if isinstance(layer, DecoderLayer):
        pairs.append((layer.cross_attention, source.encoder_attn, layer.cross_norm, source.encoder_attn_layer_norm))
    for ours, theirs, our_norm, their_norm in pairs:
        projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
        copy(ours.qkv, torch.cat([p.weight for p in projections]), torch.cat([p.bias for p in projections]))
        copy(ours.out, theirs.out_proj.weight, theirs.out_proj.bias)
        copy(our_norm, their_norm.weight, their_norm.bias)
    copy(layer.feed_forward.up, source.fc1.weight, source.fc1.bias)
    copy(layer.feed_forward.down, source.fc2.weight, source.fc2.bias)
    copy(layer.feed_forward_norm, source.final_layer_norm.weight, source.final_layer_norm.bias)


@torch.no_grad()
def test_marian_with_padded_sources() -> None:
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=97, d_model=48, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=80, decoder_ffn_dim=80, max_position_embeddings=64,
        activation_function="swish", scale_embedding=True, dropout=0.0, attention_dropout=0.0, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    sinusoids = theirs.model.encoder.embed_positions.weight.clone()
    noise(theirs)
    shared = TransformerConfig(
        vocab_size=97, embed_dim=48, ffn_dim=80, num_layers=2, num_heads=4, max_seq_len=64, norm="layer", norm_eps=1e-5,
        norm_position="post", activation="silu", position="sinusoidal", bias=True, scale_embeddings=True, dropout=0.0,
    )  # fmt: skip
    encoder = TransformerEncoder(shared).eval()
    decoder = TransformerDecoder(shared.replace(num_layers=3), cross_attention=True, embedding=encoder.embedding).eval()
    copy(encoder.embedding, theirs.model.shared.weight)
    torch.testing.assert_close(encoder.positions.table, sinusoids, atol=1e-6, rtol=0.0)
    for stack in (theirs.model.encoder, theirs.model.decoder):  # parameters there, so that the noise moved them
        copy(stack.embed_positions, sinusoids)
    for layer, source in zip(encoder.layers, theirs.model.encoder.layers, strict=True):
        copy_marian_layer(layer, source)
    for layer, source in zip(decoder.layers, theirs.model.decoder.layers, strict=True):
        copy_marian_layer(layer, source)
    source, target = torch.randint(3, 97, (3, 13)), torch.randint(3, 97, (3, 9))
    mask = torch.arange(13) < torch.tensor([13, 5, 8])[:, None]
    expected = theirs(input_ids=source, attention_mask=mask.long(), decoder_input_ids=target).logits
    ours = decoder.logits(decoder(target, memory=encoder(source, mask), memory_mask=mask))
    torch.testing.assert_close(ours, expected, **TOLERANCE)
