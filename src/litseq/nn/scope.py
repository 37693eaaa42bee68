"""What a token may attend to, and where it stands: one object for a whole stack.

Flags and lengths wherever they suffice, so that training keeps the fused kernels; a mask only where it is needed, built
once and shared by the layers. Letters: B batch, T queries, S keys, M capacity of a cache, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from litseq.nn.ops import cache_mask, step_positions
from litseq.nn.positions import PositionScheme, segment_positions


@dataclass(frozen=True)
class Step:
    """A call with a cache: rows of different age, each with some new tokens."""

    last_positions: Tensor
    """Index of each row's last token after the call, int32 [B]."""
    new_lengths: Tensor
    """New tokens of each row that are real, int32 [B]."""
    total_length: Tensor
    """The largest of `last_positions + 1`, int32 scalar."""
    prefix_lengths: Tensor | None = None
    """Tokens at the beginning of a row that all see each other, int32 [B]."""


@dataclass(frozen=True)
class Scope:
    """What the queries of an attention may see. Build it with `bidirectional`, `causal` or `cached`."""

    is_causal: bool = False
    """Each query sees the keys up to its own; only without `mask`."""
    mask: Tensor | None = None
    """True = may attend, broadcastable to [B, 1, T, S]."""
    key_lengths: Tensor | None = None
    """Instead of a mask: how many keys of each row are real, int32 [B]; inference only."""
    bias: Tensor | None = None
    """Added to the scores, broadcastable to [B, H, T, S]."""
    positions: Tensor | None = None
    """Positions of the queries, int64 [B, T] or [1, T]; None where keys and queries come from different sequences."""
    rotary: tuple[Tensor, Tensor] | None = None
    """Cosines and sines of all positions, each [max_seq_len, R / 2]."""
    step: Step | None = None
    """Set when there is a cache."""

    @classmethod
    def bidirectional(
        cls, length: int, scheme: PositionScheme, mask: Tensor | None = None, key_lengths: Tensor | None = None
    ) -> "Scope":
        """Every token sees every token (that is real).

        Args:
            length: T.
            scheme: position scheme of the stack.
            mask: True where a token is real, bool [B, T].
            key_lengths: the same as lengths, int32 [B], for inference.
        """
        device = _device(scheme, mask if mask is not None else key_lengths)
        positions = torch.arange(length, device=device)[None]
        return cls(
            mask=None if mask is None else mask[:, None, None],
            key_lengths=key_lengths,
            bias=scheme.bias(positions, positions),
            positions=positions,
            rotary=scheme.rotary_tables(),
        )

    @classmethod
    def memory(cls, mask: Tensor | None = None, key_lengths: Tensor | None = None) -> "Scope":
        """Every token sees all of another sequence (that is real): cross attention. It knows no positions."""
        return cls(mask=None if mask is None else mask[:, None, None], key_lengths=key_lengths)

    @classmethod
    def causal(
        cls,
        input_ids: Tensor,
        scheme: PositionScheme,
        segment_ids: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> "Scope":
        """Every token sees itself and what stands before it.

        Padding on the right needs no mask: no real token sees it, and what it sees itself is not used.

        Args:
            input_ids: [B, T], for its shape and device.
            scheme: position scheme of the stack.
            segment_ids: packed documents, int64 [B, T]: no token sees another document, positions begin anew.
            prefix_lengths: tokens at the beginning that all see each other, int64 [B].
        """
        index = torch.arange(input_ids.shape[1], device=input_ids.device)
        positions = index[None] if segment_ids is None else segment_positions(segment_ids)
        mask = None
        if segment_ids is not None or prefix_lengths is not None:
            mask = (index <= index[:, None])[None]  # [1, T, S]
            if prefix_lengths is not None:
                mask = mask | (index < prefix_lengths[:, None])[:, None]
            if segment_ids is not None:
                mask = mask & (segment_ids[:, :, None] == segment_ids[:, None])
            mask = mask[:, None]
        return cls(
            is_causal=mask is None,
            mask=mask,
            bias=scheme.bias(positions, positions),
            positions=positions,
            rotary=scheme.rotary_tables(),
        )

    @classmethod
    def cached(cls, step: Step, new_tokens: int, capacity: int, scheme: PositionScheme) -> "Scope":
        """New tokens behind what a cache holds.

        Args:
            step: ages and lengths of the rows.
            new_tokens: T.
            capacity: M.
            scheme: position scheme of the stack.
        """
        positions = step_positions(step.last_positions, step.new_lengths, new_tokens)
        keys = torch.arange(capacity, device=positions.device)[None]
        return cls(
            bias=scheme.bias(positions, keys),
            positions=positions,
            rotary=scheme.rotary_tables(),
            step=step,
        )

    def dense_mask(self, keys: int) -> Tensor:
        """The mask in full, for an attention written in plain torch: bool, broadcastable to [B, 1, T, S].

        Args:
            keys: S, or M when there is a cache.
        """
        if self.mask is not None:
            return self.mask
        if self.step is not None:
            assert self.positions is not None
            return cache_mask(self.positions, keys, self.step.prefix_lengths)
        if self.key_lengths is not None:
            return (torch.arange(keys, device=self.key_lengths.device) < self.key_lengths[:, None])[:, None, None]
        device = None if self.positions is None else self.positions.device
        mask = torch.ones(keys, keys, dtype=torch.bool, device=device)
        return (mask.tril() if self.is_causal else mask)[None, None]


def _device(scheme: PositionScheme, like: Tensor | None) -> torch.device | None:
    if like is not None:
        return like.device
    return next((t.device for t in (*scheme.parameters(), *scheme.buffers())), None)
