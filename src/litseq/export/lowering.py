"""From litseq's two custom ops to the nodes that onnxruntime runs fastest, and back to plain torch where none fits.

onnxruntime's `GroupQueryAttention` writes its cache in place, takes rows of different length and grouped heads, and turns
queries and keys itself; `MultiHeadAttention` reads keys and values as they lie. What a node cannot do (see `fits_*`)
stays the plain torch of `litseq.nn.ops`, and the rest of the graph is exported the same way.
"""

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnx.defs import OpSchema
from torch import Tensor

from litseq.nn import ops

PREFIX_ATTENTION = "PrefixAttention"
"""Stands for an attention with a visible prefix until `passes.expand_prefix_attention` writes it out."""

CONTRIB_DOMAIN = "com.microsoft"
LITSEQ_DOMAIN = "litseq"

_GQA_INPUTS = [
    "query",
    "key",
    "value",
    "past_key",
    "past_value",
    "seqlens_k",
    "total_sequence_length",
    "cos_cache",
    "sin_cache",
    "position_ids",
    "attention_bias",
    "head_sink",
    "k_scale",
    "v_scale",
    "q_norm_weight",
    "k_norm_weight",
    "query_seqlens",
]
GQA_QUERY_SEQLENS = _GQA_INPUTS.index("query_seqlens")


def _op(domain: str, name: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnxscript.values.Op:
    """An op of a domain that onnx has no schemas for."""
    optional = OpSchema.FormalParameterOption.Optional
    kinds = ["tensor(float)", "tensor(int32)", "tensor(int64)"]
    names = [*inputs, *outputs]
    schema = OpSchema(
        name,
        domain,
        1,
        inputs=[OpSchema.FormalParameter(n, f"T{i}", param_option=optional) for i, n in enumerate(inputs)],
        outputs=[OpSchema.FormalParameter(n, f"T{len(inputs) + i}") for i, n in enumerate(outputs)],
        type_constraints=[(f"T{i}", kinds, "") for i in range(len(names))],
        attributes=[OpSchema.Attribute(key, kind, "", required=False) for key, kind in attributes.items()],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(domain, 1), name, schema)


_INT, _FLOAT = OpSchema.AttrType.INT, OpSchema.AttrType.FLOAT
_CACHED_OUTPUTS = ["output", "present_key", "present_value"]
_CACHED_ATTRIBUTES = {"num_heads": _INT, "kv_num_heads": _INT, "do_rotary": _INT, "scale": _FLOAT}
_GQA = _op(CONTRIB_DOMAIN, "GroupQueryAttention", _GQA_INPUTS, _CACHED_OUTPUTS, **_CACHED_ATTRIBUTES)
_PREFIX = _op(LITSEQ_DOMAIN, PREFIX_ATTENTION, [*_GQA_INPUTS, "prefix_lengths"], _CACHED_OUTPUTS, **_CACHED_ATTRIBUTES)
_MHA = _op(
    CONTRIB_DOMAIN,
    "MultiHeadAttention",
    ["query", "key", "value", "bias", "key_padding_mask"],
    ["output"],
    num_heads=_INT,
    scale=_FLOAT,
)


def _lower_cached_attention(
    qkv: Any,
    past_key: Any,
    past_value: Any,
    last_positions: Any,
    new_lengths: Any,
    total_length: Any,
    cos: Any,
    sin: Any,
    prefix_lengths: Any,
    bias: Any,
    num_heads: int,
    scale: float,
) -> Any:
    inputs = [qkv, None, None, past_key, past_value, last_positions, total_length, cos, sin, *[None] * 7, new_lengths]
    if bias is not None:
        inputs[_GQA_INPUTS.index("attention_bias")] = _upto(bias, total_length)
    attributes = {
        "num_heads": num_heads,
        "kv_num_heads": int(past_key.shape[1]),
        "do_rotary": int(cos is not None),
        "scale": scale,
    }
    if prefix_lengths is None:
        return _GQA(*inputs, **attributes)
    return _PREFIX(*inputs, prefix_lengths, **attributes)


def _upto(bias: Any, total_length: Any) -> Any:
    """The node wants the bias of the keys there are, [.., total_length]; ours spans the capacity, [.., M]."""
    op = onnxscript.opset23
    end = op.Reshape(total_length, op.Constant(value_ints=[1]))
    start = op.Cast(op.Constant(value_ints=[0]), to=6)  # int32, the type of total_length
    axis = op.Cast(op.Constant(value_ints=[3]), to=6)
    return op.Slice(bias, start, end, axis)


def _lower_attend_lengths(query: Any, key: Any, value: Any, key_lengths: Any, num_heads: int, scale: float) -> Any:
    return _MHA(query, key, value, None, key_lengths, num_heads=num_heads, scale=scale)


TRANSLATION_TABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.litseq.cached_attention.default: _lower_cached_attention,
    torch.ops.litseq.attend_lengths.default: _lower_attend_lengths,
}


def fits_group_query_attention(head_dim: int, cos: Tensor | None) -> bool:
    """The kernel takes heads of a multiple of 8, with rotary positions of a multiple of 16."""
    if cos is None:
        return head_dim % 8 == 0
    return head_dim % 16 == 0 and cos.shape[-1] % 8 == 0


def _decompose_cached_attention(*args: Any) -> Any:
    past_key, cos = args[1], args[6]
    if fits_group_query_attention(past_key.shape[-1], cos):
        return NotImplemented
    return ops.cached_attention_in_torch(*args)


def _decompose_attend_lengths(*args: Any) -> Any:
    key, num_heads = args[1], args[4]
    if key.shape[1] == num_heads:  # the node knows no grouped heads
        return NotImplemented
    return ops.attend_lengths_in_torch(*args)


def lower(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Write out the custom ops that no node fits as plain torch."""
    table = {
        torch.ops.litseq.cached_attention.default: _decompose_cached_attention,
        torch.ops.litseq.attend_lengths.default: _decompose_attend_lengths,
    }
    return program.run_decompositions(table)
