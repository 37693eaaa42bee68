"""A bundle of made-up files: the bundle room never looks inside a graph."""

from __future__ import annotations

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

ROLES = ("input_ids", "last_positions", "new_lengths", "total_length", "logit_rows")


def sample_manifest(encoder: bool = True, **changes: Any) -> Manifest:
    cross = CrossTensor("cross_key.0", ("batch", 4, "source", 16))
    inputs = {role: role for role in (*ROLES, *(["source_lengths"] if encoder else []))}
    values: dict[str, Any] = {
        "architecture": "encoder-decoder" if encoder else "decoder-only",
        "model": ModelInfo("my.Model", 100, 64, 12345, {"embed_dim": 64}),
        "decoder": DecoderGraph(
            "decoder.onnx",
            inputs,
            {"logits": "logits"},
            (CacheTensor("past_key.0", "present_key.0", ("batch", 4, "capacity", 16)),),
            (cross,) if encoder else (),
        ),
        "encoder": EncoderGraph("encoder.onnx", {"input_ids": "i", "lengths": "l"}, {"cross_key.0": "c"})
        if encoder
        else None,
        "tokenizer": TokenizerInfo("tokenizer.json", (Golden("", ()), Golden("größe 🙂", (5, 6)))),
        "prompt_format": {"suffix_ids": [2], "start_ids": [1]},
        "generation": {"max_new_tokens": 9},
        "provenance": {"litseq": "0.1.0", "data": {"file": "a.tsv"}},
        "parity": {"max_logit_difference": 1e-6},
    }
    return Manifest(**(values | changes))


def write_sample(target: Any, force: bool = False, content: bytes = b"weights", **changes: Any) -> Manifest:
    with create_bundle(target, force=force) as draft:
        for name in ("decoder.onnx", "encoder.onnx", "weights.data"):
            (draft.path / name).write_bytes(content + name.encode())
        (draft.path / "tokenizer.json").write_text("{}")
        return draft.finish(sample_manifest(**changes))
