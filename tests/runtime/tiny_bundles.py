"""Bundles around the hand-laid graphs of `tiny_graphs`, written by the same writer as exported ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litseq.bundle import (
    CacheTensor,
    CrossTensor,
    DecoderGraph,
    EncoderGraph,
    Golden,
    Manifest,
    ModelInfo,
    TokenizerInfo,
    create_bundle,
)
from litseq.text import PromptFormat, Tokenizer
from runtime.tiny_graphs import TinyNet

TEXTS = ["the quick brown fox jumps over the lazy dog", "größe, ÄRGER — 你好 🙂", "one two three four five"]


def tiny_tokenizer(kind: str = "char") -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab_size=300, kind=kind)


def tiny_manifest(net: TinyNet, tokenizer: Tokenizer, **changes: Any) -> Manifest:
    layers = range(net.num_layers)
    kv: tuple[int | str, ...] = ("batch", net.num_kv_heads, "capacity", net.head_dim)
    source: tuple[int | str, ...] = ("batch", net.num_heads, "source", net.head_dim)
    roles = ["input_ids", "last_positions", "new_lengths", "total_length", "logit_rows"]
    roles += ["top_k"] * net.top_k + ["source_lengths"] * net.encoder_decoder + ["prefix_lengths"] * net.prefix_lm
    outputs = ["logits", *(["top_ids", "top_log_probs"] if net.top_k else [])]
    cache = [CacheTensor(f"past_{k}.{i}", f"present_{k}.{i}", kv) for i in layers for k in ("key", "value")]
    cache += [CacheTensor("past_state", "present_state", ("batch", net.embed_dim))] * net.state
    cross = tuple(CrossTensor(f"cross_{k}.{i}", source) for i in layers for k in ("key", "value"))
    encoder = EncoderGraph(
        "encoder.onnx", {"input_ids": "input_ids", "lengths": "lengths"}, {c.name: c.name for c in cross}
    )
    encoder_decoder = PromptFormat(suffix_ids=(tokenizer.eos_id,), start_ids=(tokenizer.bos_id,))
    prompt_format = encoder_decoder if net.encoder_decoder else PromptFormat(prefix_ids=(tokenizer.bos_id,))
    values: dict[str, Any] = {
        "architecture": "encoder-decoder" if net.encoder_decoder else "decoder-only",
        "model": ModelInfo("tests.TinyNet", net.vocab_size, net.max_seq_len),
        "decoder": DecoderGraph(
            "decoder.onnx",
            {role: role for role in roles},
            {name: name for name in outputs},
            tuple(cache),
            cross if net.encoder_decoder else (),
        ),
        "encoder": encoder if net.encoder_decoder else None,
        "tokenizer": TokenizerInfo("tokenizer.json", (Golden(TEXTS[0], tuple(tokenizer.encode(TEXTS[0]))),)),
        "prompt_pass": "whole" if net.prefix_lm else "chunks",
        "prompt_format": prompt_format.to_dict(),
    }
    return Manifest(**(values | changes))


def write_tiny_bundle(target: Path, net: TinyNet, tokenizer: Tokenizer | None = None, **changes: Any) -> Path:
    tokenizer = tokenizer or tiny_tokenizer()
    with create_bundle(target, force=True) as draft:
        net.save(draft.path)
        tokenizer.save(draft.path / "tokenizer.json")
        draft.finish(tiny_manifest(net, tokenizer, **changes))
    return target
