"""Attention by loops over rows, heads and queries: the definition, and nothing of ours in it."""

import math

import torch
from torch import Tensor

from litseq.nn import TransformerConfig


def attention_by_hand(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Queries [B, H, T, Dh], keys and values [B, K, S, Dh], allowed bool [B, T, S] -> [B, T, H * Dh]."""
    rows, heads, queries, width = query.shape
    group = heads // key.shape[1]
    out = torch.zeros(rows, queries, heads, width)
    for b in range(rows):
        for h in range(heads):
            for t in range(queries):
                seen = allowed[b, t].nonzero()[:, 0]
                scores = key[b, h // group, seen] @ query[b, h, t] / math.sqrt(width)
                out[b, t, h] = scores.softmax(0) @ value[b, h // group, seen]
    return out.flatten(2)


def rotate_by_hand(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Heads [B, H, T, Dh], turned pair by pair as complex numbers, halves of a head being real and imaginary parts."""
    half = x.shape[-1] // 2
    turned = torch.complex(x[..., :half].double(), x[..., half:].double())
    for i in range(half):
        angle = positions.double() * base ** (-2 * i / x.shape[-1])  # [B, T]
        turned[..., i] *= torch.polar(torch.ones_like(angle), angle)[:, None]
    return torch.cat([turned.real, turned.imag], dim=-1).float()


def random_config(**changes: object) -> TransformerConfig:
    """A small configuration without dropout."""
    values = {"vocab_size": 50, "embed_dim": 64, "num_layers": 2, "num_heads": 4, "max_seq_len": 40, "dropout": 0.0}
    return TransformerConfig(**values | changes)


def roughen(module: torch.nn.Module) -> torch.nn.Module:
    """Larger random weights than the initial ones, so that nothing is close to zero by luck; in evaluation mode."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
        else:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module.eval()
