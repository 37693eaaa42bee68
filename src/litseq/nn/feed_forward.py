"""The feed-forward of a layer, and the norm choice."""

import torch.nn.functional as F
from torch import Tensor, nn

from litseq.nn.config import TransformerConfig


class FeedForward(nn.Module):
    """Widen, activate, narrow.

    With `swiglu` the activation gates a second widening (https://arxiv.org/abs/2002.05202).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.embed_dim, config.ffn_width, bias=config.bias)
        self.down = nn.Linear(config.ffn_width, config.embed_dim, bias=config.bias)
        self.gate = (
            nn.Linear(config.embed_dim, config.ffn_width, bias=config.bias) if config.activation == "swiglu" else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        if self.gate is not None:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(self._activate(self.up(x)))

    def _activate(self, x: Tensor) -> Tensor:
        match self.activation:
            case "gelu":
                return F.gelu(x)
            case "gelu_tanh":
                return F.gelu(x, approximate="tanh")
            case "relu":
                return F.relu(x)
            case _:
                return F.silu(x)


def build_norm(config: TransformerConfig) -> nn.Module:
    """RMSNorm or LayerNorm over the residual stream."""
    if config.norm == "rms":
        return nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
    return nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
