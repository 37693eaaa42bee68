"""The models that are measured: random weights from a seed, made by transformers, copied into litseq's modules."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.text import PromptFormat, Tokenizer

SEED = 0
VOCAB = 32000


@dataclass(frozen=True)
class Shape:
    """A model to measure; `source` is the length of its prompts."""

    name: str
    description: str
    prompt: int = 32
    new_tokens: int = 64


LLAMA = Shape("llama", "12-layer llama-like decoder: d 768, 12/4 heads, ffn 2048, vocab 32000")
BASE = Shape("base", "Transformer-base encoder-decoder: 6+6 layers, d 512, 8 heads, ffn 2048, vocab 32000")
SHAPES = {shape.name: shape for shape in (LLAMA, BASE)}


def prepare(shape: Shape, directory: Path) -> None:
    """Write the transformers checkpoint, the litseq bundle and (where it is installed) the CTranslate2 model."""
    if (directory / "done").is_file():
        return
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(SEED)
    theirs, ours = _llama() if shape is LLAMA else _base()
    theirs.save_pretrained(directory / "transformers")
    tokenizer = Tokenizer.train(["abc"], vocab_size=8, kind="char")
    start = () if shape is LLAMA else (VOCAB,)
    report = export_bundle(ours, tokenizer, directory / "litseq", prompt_format=PromptFormat(start_ids=start))
    print(f"{shape.name}: exported, largest relative error {report.max_error:.1e}")
    _convert(directory)
    (directory / "done").touch()


def _llama() -> tuple[nn.Module, SequenceModule]:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=1024, rms_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    ours = DecoderOnly(
        vocab_size=VOCAB, embed_dim=768, ffn_dim=2048, num_layers=12, num_heads=12, num_kv_heads=4, max_seq_len=1024,
        tie_embeddings=False,
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


def _base() -> tuple[nn.Module, SequenceModule]:
    config = transformers.MarianConfig(
        vocab_size=VOCAB + 1, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512,
        activation_function="swish", scale_embedding=True, pad_token_id=VOCAB, eos_token_id=0,
        decoder_start_token_id=VOCAB, forced_eos_token_id=None, dropout=0.0,
    )  # fmt: skip
    theirs = transformers.MarianMTModel(config).eval()
    ours = EncoderDecoder(
        vocab_size=VOCAB + 1, embed_dim=512, ffn_dim=2048, num_layers=6, num_heads=8, max_seq_len=512, norm="layer",
        norm_eps=1e-5, norm_position="post", activation="silu", position="sinusoidal", bias=True, scale_embeddings=True,
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
def _copy(target: nn.Module, source: nn.Module) -> None:
    target.weight.copy_(source.weight)
    if getattr(source, "bias", None) is not None:
        target.bias.copy_(source.bias)


@torch.no_grad()
def _copy_qkv(target: nn.Linear, source: nn.Module) -> None:
    parts = [source.q_proj, source.k_proj, source.v_proj]
    target.weight.copy_(torch.cat([part.weight for part in parts]))
    if target.bias is not None:
        biases: list[Tensor] = [part.bias for part in parts]
        target.bias.copy_(torch.cat(biases))


class _Words:
    """What CTranslate2's converter asks of a tokenizer; the tokens are called w0, w1, ..."""

    bos_token, eos_token, unk_token, pad_token = "w1", "w0", "w2", "<pad>"
    unk_token_id = 2

    def __init__(self, size: int) -> None:
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        return {"<pad>" if i == VOCAB else f"w{i}": i for i in range(self.size)}


def _convert(directory: Path) -> None:
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError:
        return

    class Converter(TransformersConverter):
        def load_tokenizer(self, tokenizer_class: object, model_name_or_path: str, **_: object) -> _Words:
            return _Words(transformers.AutoConfig.from_pretrained(model_name_or_path).vocab_size)

    Converter(str(directory / "transformers")).convert(str(directory / "ctranslate2"))
