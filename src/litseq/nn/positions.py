"""Where a token stands: the position schemes.

A scheme may act in three places, and says so by what it overrides: on the embeddings (`embed`), on queries and keys
(`rotary_tables`), on the attention scores (`bias`). One scheme serves all layers of a stack.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litseq.nn.config import TransformerConfig


class PositionScheme(nn.Module):
    """No positions; the base of those that have some."""

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Add positions to embeddings.

        Args:
            x: embeddings, [B, T, D].
            positions: int64, [B, T] or [1, T].

        Returns:
            [B, T, D].
        """
        return x

    def rotary_tables(self) -> tuple[Tensor, Tensor] | None:
        """Cosine and sine of every position's angles, each [max_seq_len, rotated pairs], or None."""
        return None

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """A term for the attention scores, added before the softmax.

        Args:
            query_positions: int64, [B, T] or [1, T].
            key_positions: int64, [B, S] or [1, S].

        Returns:
            Broadcastable to [B, H, T, S], or None.
        """
        return None


class Rotary(PositionScheme):
    """Rotary positions (https://arxiv.org/abs/2104.09864), pairs taken half a head apart as in Llama.

    Args:
        head_dim: width of a head, even.
        max_seq_len: positions to tabulate.
        base: base of the frequencies.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, max_seq_len: int, base: float = 10000.0) -> None:
        super().__init__()
        angles = torch.arange(max_seq_len, dtype=torch.float32)[:, None] * self.frequencies(head_dim, base)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def frequencies(self, head_dim: int, base: float) -> Tensor:
        """The angle a pair turns by from one position to the next, [head_dim / 2]; override it to stretch them."""
        # Computed as Llama does, so that imported weights meet the very same angles.
        return 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)

    def rotary_tables(self) -> tuple[Tensor, Tensor]:
        """See `PositionScheme.rotary_tables`."""
        return self.cos, self.sin


class Learned(PositionScheme):
    """One learned vector for each position, added to the embeddings."""

    def __init__(self, embed_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_seq_len, embed_dim)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """See `PositionScheme.embed`."""
        return x + self.table(positions)


class Sinusoidal(PositionScheme):
    """Fixed sines and cosines added to the embeddings (https://arxiv.org/abs/1706.03762, section 3.5).

    The sines fill the first half and the cosines the second, as in tensor2tensor, fairseq and Marian.
    """

    table: Tensor

    def __init__(self, embed_dim: int, max_seq_len: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, embed_dim, 2, dtype=torch.float64) * (-math.log(10000.0) / embed_dim))
        angles = torch.arange(max_seq_len, dtype=torch.float64)[:, None] * rates
        table = torch.cat([angles.sin(), angles.cos()], dim=1)
        self.register_buffer("table", table.float(), persistent=False)

    def embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """See `PositionScheme.embed`."""
        return x + F.embedding(positions, self.table)  # exported as one Gather, where indexing is three nodes


def build_positions(config: TransformerConfig) -> PositionScheme:
    """The scheme that `config.position` names."""
    match config.position:
        case "rotary":
            return Rotary(config.head_width, config.max_seq_len, config.rope_base)
        case "learned":
            return Learned(config.embed_dim, config.max_seq_len)
        case "sinusoidal":
            return Sinusoidal(config.embed_dim, config.max_seq_len)
        case "none":
            return PositionScheme()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of a head by its angle.

    Args:
        x: queries or keys, [B, H, T, Dh].
        cos: cosines, broadcastable to [B, 1, T, R / 2]; R <= Dh values are turned, the others stay.
        sin: sines, likewise.

    Returns:
        [B, H, T, Dh].
    """
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return torch.cat([*turned, rest] if rest.shape[-1] else turned, dim=-1).to(x.dtype)


def segment_positions(segment_ids: Tensor) -> Tensor:
    """Positions that begin anew with every document of a packed row.

    Args:
        segment_ids: documents of each token, int64 [B, T], equal neighbours belong together; 0 on padding, which may be
            longer than any document and is all at position 0.

    Returns:
        int64 [B, T].
    """
    index = torch.arange(segment_ids.shape[1], device=segment_ids.device).expand_as(segment_ids)
    begins = torch.ones_like(segment_ids, dtype=torch.bool)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    return (index - torch.where(begins, index, 0).cummax(dim=1).values) * (segment_ids > 0)
