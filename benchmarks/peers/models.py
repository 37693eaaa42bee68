"""Make the models: random weights from a seed in transformers' modules, copied into litseq's.

Runs in litseq's environment, which has transformers among its test tools. Two models are built to do something known:
`chain` puts a fixed token behind every token, and `copy` gives its source back; in both, every layer computes as much as
in a random model, and adds next to nothing to the residual stream.
"""

import math
from pathlib import Path

import tokenizers
import torch
import transformers
from shapes import SEED, VOCAB, Shape, successor
from torch import Tensor, nn

from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.text import PromptFormat, Tokenizer

FAINT = 1e-3  # what the layers of a built model may add to the residual stream
EOS = 2  # litseq's tokenizers number <pad> <bos> <eos> <unk> <sep> from 0


def build(shape: Shape, directory: Path) -> None:
    """Write transformers' checkpoint and litseq's bundle of a shape."""
    torch.manual_seed(SEED)
    theirs, ours = {"llama": _llama, "gpt2": _gpt2, "marian": _marian}[shape.family](shape)
    theirs.save_pretrained(directory / "transformers")
    _save_words(shape.vocab + shape.encoder_decoder, directory / "transformers")
    del theirs  # of the largest model, memory holds few copies
    text = (directory / "corpus.txt").read_text().splitlines() if (directory / "corpus.txt").is_file() else ["abc"]
    kind = "bpe" if len(text) > 1 else "char"
    tokenizer = Tokenizer.train(text, vocab_size=8000 if kind == "bpe" else 8, kind=kind)
    form = PromptFormat(start_ids=(shape.vocab,), suffix_ids=(EOS,)) if shape.encoder_decoder else PromptFormat()
    # Attention that is all on one position makes large scores, and large scores large differences.
    tolerance = 1e-4 if shape.behaviour == "random" else 1e-3
    report = export_bundle(ours, tokenizer, directory / "litseq-fp32", prompt_format=form, tolerance=tolerance)
    print(f"{shape.name}: exported, largest relative error {report.max_error:.1e}", flush=True)


def _save_words(size: int, directory: Path) -> None:
    """A tokenizer of the words w0, w1, ...: some converters want one, none of the measurements does."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w3"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "w1", "eos_token": "w2", "unk_token": "w3", "pad_token": "w0"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(directory)


def _llama(shape: Shape) -> tuple[nn.Module, SequenceModule]:
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.dim, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, rms_norm_eps=1e-6,
        max_position_embeddings=shape.max_length, tie_word_embeddings=False, bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    if shape.behaviour == "chain":
        _make_chain(theirs)
    ours = DecoderOnly(
        vocab_size=shape.vocab, embed_dim=shape.dim, ffn_dim=shape.ffn, num_layers=shape.layers, num_heads=shape.heads,
        num_kv_heads=shape.kv_heads, max_seq_len=shape.max_length, tie_embeddings=False, norm="rms", norm_eps=1e-6,
        activation="swiglu", position="rotary",
    )  # fmt: skip
    _copy(ours.decoder.embedding, theirs.model.embed_tokens)
    _copy(ours.decoder.final_norm, theirs.model.norm)
    _copy(ours.decoder.lm_head, theirs.lm_head)
    for layer, source in zip(ours.decoder.layers, theirs.model.layers, strict=True):
        _copy_qkv(layer.attention.qkv, source.self_attn)
        _copy(layer.attention.out, source.self_attn.o_proj)
        _copy(layer.attention_norm, source.input_layernorm)
        _copy(layer.feed_forward_norm, source.post_attention_layernorm)
        for name in ("gate", "up", "down"):
            _copy(getattr(layer.feed_forward, name), getattr(source.mlp, f"{name}_proj"))
    return theirs, ours.eval()


def _gpt2(shape: Shape) -> tuple[nn.Module, SequenceModule]:
    config = transformers.GPT2Config(
        vocab_size=shape.vocab, n_embd=shape.dim, n_layer=shape.layers, n_head=shape.heads, n_inner=shape.ffn,
        n_positions=shape.max_length, n_ctx=shape.max_length, bos_token_id=1, eos_token_id=EOS,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = DecoderOnly(
        vocab_size=shape.vocab, embed_dim=shape.dim, ffn_dim=shape.ffn, num_layers=shape.layers, num_heads=shape.heads,
        max_seq_len=shape.max_length, norm="layer", norm_eps=1e-5, activation="gelu_tanh", position="learned", bias=True,
    )  # fmt: skip
    _copy(ours.decoder.embedding, theirs.transformer.wte)
    _copy(next(m for m in ours.decoder.positions.modules() if isinstance(m, nn.Embedding)), theirs.transformer.wpe)
    _copy(ours.decoder.final_norm, theirs.transformer.ln_f)
    for layer, source in zip(ours.decoder.layers, theirs.transformer.h, strict=True):
        _copy(layer.attention_norm, source.ln_1)
        _copy(layer.attention.qkv, source.attn.c_attn, transpose=True)
        _copy(layer.attention.out, source.attn.c_proj, transpose=True)
        _copy(layer.feed_forward_norm, source.ln_2)
        _copy(layer.feed_forward.up, source.mlp.c_fc, transpose=True)
        _copy(layer.feed_forward.down, source.mlp.c_proj, transpose=True)
    return theirs, ours.eval()


def _marian(shape: Shape) -> tuple[nn.Module, SequenceModule]:
    # One token more: CTranslate2 and transformers start the decoder from the zero embedding of the last one, <pad>.
    config = transformers.MarianConfig(
        vocab_size=shape.vocab + 1, d_model=shape.dim, encoder_layers=shape.layers, decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads, decoder_attention_heads=shape.heads, encoder_ffn_dim=shape.ffn,
        decoder_ffn_dim=shape.ffn, max_position_embeddings=shape.max_length, activation_function="swish",
        scale_embedding=True, pad_token_id=shape.vocab, eos_token_id=EOS, decoder_start_token_id=shape.vocab,
        forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    if shape.behaviour == "copy":
        _make_copier(theirs)
    ours = EncoderDecoder(
        vocab_size=shape.vocab + 1, embed_dim=shape.dim, ffn_dim=shape.ffn, num_layers=shape.layers,
        num_heads=shape.heads, max_seq_len=shape.max_length, norm="layer", norm_eps=1e-5, norm_position="post",
        activation="silu", position="sinusoidal", bias=True, scale_embeddings=True,
    )  # fmt: skip
    _copy(ours.encoder.embedding, theirs.model.shared)
    for stack, source in ((ours.encoder, theirs.model.encoder), (ours.decoder, theirs.model.decoder)):
        for layer, other in zip(stack.layers, source.layers, strict=True):
            _copy_qkv(layer.attention.qkv, other.self_attn)
            _copy(layer.attention.out, other.self_attn.out_proj)
            _copy(layer.attention_norm, other.self_attn_layer_norm)
            _copy(layer.feed_forward.up, other.fc1)
            _copy(layer.feed_forward.down, other.fc2)
            _copy(layer.feed_forward_norm, other.final_layer_norm)
            if stack is ours.decoder:
                _copy_qkv(layer.cross_attention.qkv, other.encoder_attn)
                _copy(layer.cross_attention.out, other.encoder_attn.out_proj)
                _copy(layer.cross_norm, other.encoder_attn_layer_norm)
    return theirs, ours.eval()


@torch.no_grad()
def _make_chain(model: nn.Module) -> None:
    """Make the token behind `t` be `successor(t)`: its output row is the embedding of `t`."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(FAINT)
        layer.mlp.down_proj.weight.mul_(FAINT)
    table = model.model.embed_tokens.weight
    table.normal_(std=0.02)
    model.lm_head.weight[[successor(t) for t in range(VOCAB)]] = table


@torch.no_grad()
def _make_copier(model: nn.Module) -> None:
    """Make the output the source: position p of the decoder attends to position p of the encoder and takes its token.

    The sinusoids of fast frequencies (the first quarter of either half of the dimensions) hold the positions; the token
    embeddings live in the other dimensions only, where short sequences see nearly constant sinusoids.
    """
    dim, half = model.config.d_model, model.config.d_model // 2
    heads = model.config.decoder_attention_heads
    head = dim // heads
    positions = torch.cat([torch.arange(half // 2), half + torch.arange(half // 2)])
    tokens = torch.tensor([i for i in range(dim) if i not in set(positions.tolist())])
    table = model.model.shared.weight
    table.zero_()
    table[:, tokens] = torch.randn(len(table), len(tokens)) / math.sqrt(len(tokens))
    table[-1] = 0  # <pad>, from whose zeros the decoder starts
    for stack in (model.model.encoder, model.model.decoder):
        for layer in stack.layers:
            for module in (layer.self_attn.out_proj, layer.fc2):
                module.weight.mul_(FAINT)
    for layer in model.model.decoder.layers[:-1]:
        layer.encoder_attn.out_proj.weight.mul_(FAINT)
    cross = model.model.decoder.layers[-1].encoder_attn
    for module in (cross.q_proj, cross.k_proj, cross.v_proj, cross.out_proj):
        module.weight.zero_()
    fast = torch.cat([torch.arange(head // 2), half + torch.arange(head // 2)])
    for h in range(heads):
        rows = torch.arange(h * head, (h + 1) * head)
        cross.q_proj.weight[rows, fast] = 8.0
        cross.k_proj.weight[rows, fast] = 8.0
    # Every head attends alike; together they carry the token's dimensions over, enlarged over the decoder's own token.
    cross.v_proj.weight[torch.arange(len(tokens)), tokens] = 1.0
    cross.out_proj.weight[tokens, torch.arange(len(tokens))] = 8.0


@torch.no_grad()
def _copy(target: nn.Module, source: nn.Module, transpose: bool = False) -> None:
    target.weight.copy_(source.weight.T if transpose else source.weight)
    if getattr(source, "bias", None) is not None:
        target.bias.copy_(source.bias)


@torch.no_grad()
def _copy_qkv(target: nn.Linear, source: nn.Module) -> None:
    parts = [source.q_proj, source.k_proj, source.v_proj]
    target.weight.copy_(torch.cat([part.weight for part in parts]))
    if target.bias is not None:
        biases: list[Tensor] = [part.bias for part in parts]
        target.bias.copy_(torch.cat(biases))
