"""The one configuration of both stacks."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

NormName = Literal["rms", "layer"]
NormPosition = Literal["pre", "post"]
ActivationName = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu"]
PositionName = Literal["rotary", "learned", "sinusoidal", "none"]


@dataclass(frozen=True)
class TransformerConfig:
    """Shape and flavour of a Transformer stack.

    The defaults are the present-day decoder recipe (pre-norm RMSNorm, rotary positions, no biases); the original
    Transformer (https://arxiv.org/abs/1706.03762) is `norm="layer", norm_position="post", activation="relu",
    position="sinusoidal", bias=True, scale_embeddings=True`.

    Raises:
        ValueError: one line that lists every value that cannot be.
    """

    vocab_size: int
    """Rows of the embedding and of the output projection."""
    embed_dim: int = 256
    """Width of the residual stream."""
    num_layers: int = 4
    """Layers of the stack."""
    num_heads: int = 4
    """Query heads."""
    num_kv_heads: int | None = None
    """Key and value heads; fewer than `num_heads` is grouped-query attention (https://arxiv.org/abs/2305.13245).
    None: as many as `num_heads`."""
    head_dim: int | None = None
    """Width of a head. None: `embed_dim / num_heads`."""
    ffn_dim: int | None = None
    """Inner width of the feed-forward. None: `4 * embed_dim`, or for SwiGLU two thirds of that, rounded up to a
    multiple of 32, which keeps the parameter count (https://arxiv.org/abs/2002.05202)."""
    max_seq_len: int = 512
    """The longest sequence, in tokens."""
    dropout: float = 0.1
    """Dropout on the embeddings and on what each sub-layer adds to the residual stream. Attention weights have none,
    so that training keeps the fused attention kernels."""
    norm: NormName = "rms"
    """RMSNorm (https://arxiv.org/abs/1910.07467) or LayerNorm."""
    norm_eps: float = 1e-6
    """Added to the variance before its root is taken."""
    norm_position: NormPosition = "pre"
    """Normalise what a sub-layer reads (and once more behind the last layer), or what the residual sum gives."""
    activation: ActivationName = "swiglu"
    """Activation of the feed-forward; `swiglu` has a gate beside it."""
    position: PositionName = "rotary"
    """Rotary (https://arxiv.org/abs/2104.09864), learned, sinusoidal, or none at all."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies."""
    tie_embeddings: bool = True
    """Use the embedding as output projection as well (https://arxiv.org/abs/1608.05859)."""
    bias: bool = False
    """Give the linear layers a bias."""
    scale_embeddings: bool = False
    """Multiply embeddings by the root of `embed_dim`."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}, expected at least 1"
            for name in ("vocab_size", "embed_dim", "num_layers", "num_heads", "max_seq_len")
            if (value := getattr(self, name)) < 1
        ]
        problems += [
            f"{name} is {value}, expected at least 1 or None"
            for name in ("num_kv_heads", "head_dim", "ffn_dim")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        problems += [
            f"{name} is {getattr(self, name)!r}, expected one of {', '.join(get_args(choices))}"
            for name, choices in (
                ("norm", NormName),
                ("norm_position", NormPosition),
                ("activation", ActivationName),
                ("position", PositionName),
            )
            if getattr(self, name) not in get_args(choices)
        ]
        if not 0.0 <= self.dropout < 1.0:
            problems.append(f"dropout is {self.dropout}, expected at least 0 and less than 1")
        if not problems:
            problems += self._head_problems()
        if problems:
            raise ValueError("TransformerConfig: " + "; ".join(problems))

    def _head_problems(self) -> list[str]:
        problems = []
        if self.head_dim is None and self.embed_dim % self.num_heads:
            problems.append(
                f"embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}: change one or give head_dim"
            )
        if self.num_heads % self.kv_heads:
            problems.append(f"num_heads {self.num_heads} is no multiple of num_kv_heads {self.kv_heads}")
        if self.position == "rotary" and self.head_width % 2:
            problems.append(f"head_dim is {self.head_width}, rotary positions need an even one")
        if self.position == "sinusoidal" and self.embed_dim % 2:
            problems.append(f"embed_dim is {self.embed_dim}, sinusoidal positions need an even one")
        return problems

    @property
    def kv_heads(self) -> int:
        """Key and value heads, resolved."""
        return self.num_kv_heads if self.num_kv_heads is not None else self.num_heads

    @property
    def head_width(self) -> int:
        """Width of a head, resolved."""
        return self.head_dim if self.head_dim is not None else self.embed_dim // self.num_heads

    @property
    def ffn_width(self) -> int:
        """Inner width of the feed-forward, resolved."""
        if self.ffn_dim is not None:
            return self.ffn_dim
        if self.activation == "swiglu":
            return -(-8 * self.embed_dim // 3 // 32) * 32
        return 4 * self.embed_dim

    def replace(self, **changes: object) -> "TransformerConfig":
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # checked again by __post_init__
