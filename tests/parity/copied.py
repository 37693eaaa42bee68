"""Models of Hugging Face with weights that matter, and the same weights in our modules."""

import pytest
import torch
from torch import Tensor, nn

from litseq.models import DecoderOnly, EncoderDecoder
from litseq.nn import DecoderLayer, EncoderLayer

transformers = pytest.importorskip("transformers")


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


def llama() -> tuple[nn.Module, DecoderOnly]:
    """A Llama with grouped heads, and ours."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=5000.0,
        tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    noise(theirs)
    module = DecoderOnly(
        vocab_size=97, embed_dim=48, ffn_dim=80, num_layers=3, num_heads=6, num_kv_heads=2, max_seq_len=64,
        norm_eps=1e-5, rope_base=5000.0, tie_embeddings=False,
    ).eval()  # fmt: skip
    ours = module.decoder
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
    return theirs, module


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


def marian() -> tuple[nn.Module, EncoderDecoder]:
    """A Marian translation model, and ours."""
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=97, d_model=48, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=80, decoder_ffn_dim=80, max_position_embeddings=64,
        activation_function="swish", scale_embedding=True, dropout=0.0, attention_dropout=0.0, pad_token_id=0,
        eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    sinusoids = theirs.model.encoder.embed_positions.weight.clone()
    noise(theirs)
    module = EncoderDecoder(
        vocab_size=97, embed_dim=48, ffn_dim=80, num_layers=2, num_decoder_layers=3, num_heads=4, max_seq_len=64,
        norm="layer", norm_eps=1e-5, norm_position="post", activation="silu", position="sinusoidal", bias=True,
        scale_embeddings=True, dropout=0.0,
    ).eval()  # fmt: skip
    encoder, decoder = module.encoder, module.decoder
    copy(encoder.embedding, theirs.model.shared.weight)
    torch.testing.assert_close(encoder.positions.table, sinusoids, atol=1e-6, rtol=0.0)
    for stack in (theirs.model.encoder, theirs.model.decoder):  # parameters there, so that the noise moved them
        copy(stack.embed_positions, sinusoids)
    for layer, source in zip(encoder.layers, theirs.model.encoder.layers, strict=True):
        copy_marian_layer(layer, source)
    for layer, source in zip(decoder.layers, theirs.model.decoder.layers, strict=True):
        copy_marian_layer(layer, source)
    return theirs, module
