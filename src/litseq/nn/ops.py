"""The two custom ops that decoding calls, so that the exporter can give each one fast node.

Eagerly they are plain torch. `litseq.export.lowering` translates them: `cached_attention` to one `GroupQueryAttention`
that writes the cache in place, `attend_lengths` to one `MultiHeadAttention`. They are inference only.

Letters: B batch, T new tokens, S keys, M capacity of the cache, H query heads, K key/value heads, Dh head width,
R <= Dh rotated width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from litseq.nn.positions import rotate


def cached_attention_in_torch(
    qkv: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    last_positions: Tensor,
    new_lengths: Tensor,
    total_length: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    prefix_lengths: Tensor | None,
    bias: Tensor | None,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Causal self-attention of new tokens over a cache that they are first written into.

    Args:
        qkv: queries, keys and values side by side, not rotated yet, [B, T, (H + 2K) * Dh].
        past_key: the cache, [B, K, M, Dh]; row b holds keys up to its past length, what lies behind is not read.
        past_value: likewise.
        last_positions: index of each row's last token after this call, int32 [B].
        new_lengths: tokens of each row that are real, the others are padding on the right, int32 [B].
        total_length: the largest of `last_positions + 1`, int32 scalar.
        cos: cosines of the rotary positions, [max_seq_len, R / 2], or None.
        sin: sines, likewise.
        prefix_lengths: tokens at the beginning that all see each other, int32 [B], or None.
        bias: added to the scores, broadcastable to [B, H, T, M], or None.
        num_heads: H.
        scale: factor of the scores.

    Returns:
        The attended values [B, T, H * Dh], and the caches with the new keys and values, [B, K, M, Dh].
    """
    head_dim = past_key.shape[-1]
    kv_heads = past_key.shape[1]
    heads = qkv.unflatten(-1, (-1, head_dim)).transpose(1, 2)  # [B, H + 2K, T, Dh]
    query, key, value = heads.split([num_heads, kv_heads, kv_heads], dim=1)
    positions = step_positions(last_positions, new_lengths, qkv.shape[1])
    if cos is not None and sin is not None:
        angles = cos[positions][:, None], sin[positions][:, None]
        query, key = rotate(query, *angles), rotate(key, *angles)
    present_key = write_cache(past_key, key, positions)
    present_value = write_cache(past_value, value, positions)
    mask: Tensor = cache_mask(positions, past_key.shape[2], prefix_lengths)
    if bias is not None:
        mask = bias.masked_fill(~mask, float("-inf"))
    out = F.scaled_dot_product_attention(
        query, present_key, present_value, attn_mask=mask, scale=scale, enable_gqa=num_heads != kv_heads
    )
    return out.transpose(1, 2).flatten(2), present_key, present_value


cached_attention = torch.library.custom_op("litseq::cached_attention", cached_attention_in_torch, mutates_args=())


@cached_attention.register_fake
def _cached_attention_shapes(
    qkv: Tensor,
    past_key: Tensor,
    past_value: Tensor,
    last_positions: Tensor,
    new_lengths: Tensor,
    total_length: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    prefix_lengths: Tensor | None,
    bias: Tensor | None,
    num_heads: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    out = qkv.new_empty(*qkv.shape[:2], num_heads * past_key.shape[-1])
    return out, torch.empty_like(past_key), torch.empty_like(past_value)


def attend_lengths_in_torch(
    query: Tensor, key: Tensor, value: Tensor, key_lengths: Tensor, num_heads: int, scale: float
) -> Tensor:
    """Attention over keys that are padded on the right: cross attention, and the encoder's own.

    Args:
        query: [B, T, H * Dh].
        key: [B, K, S, Dh].
        value: [B, K, S, Dh].
        key_lengths: keys of each row that are real, int32 [B].
        num_heads: H.
        scale: factor of the scores.

    Returns:
        [B, T, H * Dh].
    """
    mask = (torch.arange(key.shape[2], device=key.device) < key_lengths[:, None])[:, None, None]
    heads = query.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    out = F.scaled_dot_product_attention(
        heads, key, value, attn_mask=mask, scale=scale, enable_gqa=num_heads != key.shape[1]
    )
    return out.transpose(1, 2).flatten(2)


attend_lengths = torch.library.custom_op("litseq::attend_lengths", attend_lengths_in_torch, mutates_args=())


@attend_lengths.register_fake
def _attend_lengths_shape(
    query: Tensor, key: Tensor, value: Tensor, key_lengths: Tensor, num_heads: int, scale: float
) -> Tensor:
    return torch.empty_like(query)


def step_positions(last_positions: Tensor, new_lengths: Tensor, new_tokens: int) -> Tensor:
    """Positions of the new tokens, int64 [B, T]; padding gets those that follow."""
    past = (last_positions + 1 - new_lengths).long()
    return past[:, None] + torch.arange(new_tokens, device=past.device)


def write_cache(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """A copy of a cache [B, K, M, Dh] with `new` [B, K, T, Dh] at `positions` [B, T].

    Padding is written as well: it lies behind what a row may read, and the row's next tokens overwrite it.
    """
    return past.scatter(2, positions[:, None, :, None].expand_as(new), new)


def cache_mask(positions: Tensor, capacity: int, prefix_lengths: Tensor | None) -> Tensor:
    """Which of the M places of a cache each of the T tokens may see, bool [B, 1, T, M]."""
    keys = torch.arange(capacity, device=positions.device)
    mask = keys <= positions[:, :, None]
    if prefix_lengths is not None:
        mask = mask | (keys < prefix_lengths[:, None, None])
    return mask[:, None]
