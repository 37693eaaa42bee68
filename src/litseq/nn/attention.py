"""The one attention block: self (causal, bidirectional, prefix), packed, cross, with a cache and without."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litseq.nn.config import TransformerConfig
from litseq.nn.ops import attend_lengths, cached_attention, write_cache
from litseq.nn.positions import rotate
from litseq.nn.scope import Scope

CacheDims = tuple[int | None, ...]
"""Shape of a cache tensor behind its batch dimension; None stands for the capacity."""


class KeyValue(NamedTuple):
    """Keys and values of one layer, each [B, K, S, Dh]; as a cache, S is its capacity M."""

    key: Tensor
    value: Tensor


LayerState = KeyValue | tuple[Tensor, ...]
"""What one layer carries from call to call: keys and values, or whatever its `cache_dims` says."""


def layer_state(tensors: Iterable[Tensor]) -> LayerState:
    """Two tensors as `KeyValue`, any other number as they are."""
    state = tuple(tensors)
    return KeyValue(*state) if len(state) == 2 else state


class Attention(nn.Module):
    """Multi-head attention with grouped heads (https://arxiv.org/abs/1706.03762, https://arxiv.org/abs/2305.13245).

    Self and cross attention are the same parameters and the same computation: only where keys and values come from, and
    what the `Scope` lets a query see, differ. Letters: B batch, T queries, S keys, D embed_dim, H query heads,
    K key/value heads, Dh head width.

    To write an attention of your own, override `attend`; to replace the block, any module with this `forward` and
    `cache_dims` will do.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.num_kv_heads = config.kv_heads
        self.head_dim = config.head_width
        self.scale = self.head_dim**-0.5
        self.query_dim = self.num_heads * self.head_dim
        self.memory_dim = 2 * self.num_kv_heads * self.head_dim
        # One matrix for all three: one product in self-attention, and one node less to run in the exported step.
        self.qkv = nn.Linear(config.embed_dim, self.query_dim + self.memory_dim, bias=config.bias)
        self.out = nn.Linear(self.query_dim, config.embed_dim, bias=config.bias)

    def forward(
        self, x: Tensor, scope: Scope, *, memory: Tensor | KeyValue | None = None, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue | None]:
        """Attend.

        Args:
            x: what asks, [B, T, D].
            scope: what it may see.
            memory: another sequence to attend to, [B, S, D], or the keys and values that `keys_values` made of it.
                None: x attends to itself.
            past: the cache of this layer, when `scope.step` is set.

        Returns:
            [B, T, D], and the cache with the new keys and values in it (None without `past`).
        """
        if memory is not None:
            query = self._project(x, 0, self.query_dim)
            keys_values = memory if isinstance(memory, KeyValue) else self.keys_values(memory)
            return self.out(self._attend_memory(query, keys_values, scope)), None
        qkv = self.qkv(x)
        if past is not None:
            out, present = self._attend_cached(qkv, scope, past)
            return self.out(out), present
        query, key, value = self._split(qkv)
        if scope.rotary is not None and scope.positions is not None:
            cos, sin = (table[scope.positions][:, None] for table in scope.rotary)  # [B or 1, 1, T, R / 2]
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if scope.key_lengths is not None and not self._has_own_attend and scope.bias is None:
            return self.out(self._attend_lengths(query.transpose(1, 2).flatten(2), key, value, scope)), None
        mask = self._sdpa_mask(scope, key)
        out = self.attend(query, key, value, mask, scope.is_causal and mask is None)
        return self.out(out.transpose(1, 2).flatten(2)), None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """The computation itself: scores, softmax, weighted sum.

        Override it in plain torch to have another one; training, decoding and export all call it then.

        Args:
            query: [B, H, T, Dh], rotated.
            key: [B, K, S, Dh], rotated.
            value: [B, K, S, Dh].
            mask: bool (True = may attend) or float (added to the scores), broadcastable to [B, H, T, S], or None.
            is_causal: each query sees the keys up to its own; never together with `mask`.

        Returns:
            [B, H, T, Dh].
        """
        grouped = self.num_heads != self.num_kv_heads
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad:
            # The backward of torch's CPU kernel takes some 25 times longer in bfloat16 than in single precision.
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
            with torch.autocast("cpu", enabled=False):
                single = query.float(), key.float(), value.float()
                out = F.scaled_dot_product_attention(
                    *single, attn_mask=mask, is_causal=is_causal, scale=self.scale, enable_gqa=grouped
                )
            return out.to(query.dtype)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=is_causal, scale=self.scale, enable_gqa=grouped
        )

    def keys_values(self, memory: Tensor) -> KeyValue:
        """Keys and values of a sequence to attend to: [B, S, D] -> two of [B, K, S, Dh]."""
        projected = self._project(memory, self.query_dim, self.query_dim + self.memory_dim)
        key, value = projected.unflatten(-1, (2 * self.num_kv_heads, self.head_dim)).transpose(1, 2).chunk(2, dim=1)
        return KeyValue(key, value)

    def cache_dims(self) -> tuple[CacheDims, CacheDims]:
        """Shapes of the two cache tensors behind the batch dimension; None is the capacity."""
        dims = (self.num_kv_heads, None, self.head_dim)
        return dims, dims

    @property
    def _has_own_attend(self) -> bool:
        return type(self).attend is not Attention.attend

    def _project(self, x: Tensor, start: int, stop: int) -> Tensor:
        bias = None if self.qkv.bias is None else self.qkv.bias[start:stop]
        return F.linear(x, self.qkv.weight[start:stop], bias)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = qkv.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # [B, H + 2K, T, Dh]
        query, key, value = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        return query, key, value

    def _sdpa_mask(self, scope: Scope, key: Tensor) -> Tensor | None:
        if scope.bias is None and scope.step is None and scope.key_lengths is None:
            return scope.mask  # or none: the flag says it all
        if scope.bias is None:
            return scope.dense_mask(key.shape[2])
        return scope.bias.masked_fill(~scope.dense_mask(key.shape[2]), float("-inf")).to(key.dtype)

    def _attend_memory(self, query: Tensor, memory: KeyValue, scope: Scope) -> Tensor:
        key, value = memory
        if scope.key_lengths is not None and not self._has_own_attend:
            return self._attend_lengths(query, key, value, scope)
        heads = query.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        mask = scope.mask if scope.key_lengths is None else scope.dense_mask(key.shape[2])
        return self.attend(heads, key, value, mask, False).transpose(1, 2).flatten(2)

    def _attend_lengths(self, query: Tensor, key: Tensor, value: Tensor, scope: Scope) -> Tensor:
        assert scope.key_lengths is not None
        return attend_lengths(query, key, value, scope.key_lengths, self.num_heads, self.scale)

    def _attend_cached(self, qkv: Tensor, scope: Scope, past: KeyValue) -> tuple[Tensor, KeyValue]:
        step = scope.step
        assert step is not None and scope.positions is not None, "a cache needs Scope.cached"
        cos, sin = scope.rotary if scope.rotary is not None else (None, None)
        if not self._has_own_attend:
            lengths = step.last_positions, step.new_lengths, step.total_length
            out, key, value = cached_attention(
                qkv, *past, *lengths, cos, sin, step.prefix_lengths, scope.bias, self.num_heads, self.scale
            )
            return out, KeyValue(key, value)
        query, key, value = self._split(qkv)
        if cos is not None and sin is not None:
            angles = cos[scope.positions][:, None], sin[scope.positions][:, None]
            query, key = rotate(query, *angles), rotate(key, *angles)
        present = KeyValue(write_cache(past.key, key, scope.positions), write_cache(past.value, value, scope.positions))
        mask = self._sdpa_mask(scope, present.key)
        out = self.attend(query, *present, mask, False)
        return out.transpose(1, 2).flatten(2), present
