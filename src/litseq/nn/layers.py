"""The layers of the two stacks. A subclass swaps a part by overriding the `build_` method that makes it."""

from torch import Tensor, nn

from litseq.nn.attention import Attention, KeyValue
from litseq.nn.config import TransformerConfig
from litseq.nn.dropout import Dropout
from litseq.nn.feed_forward import FeedForward, build_norm
from litseq.nn.scope import Scope


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a norm, before or after as the configuration says."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attention_norm = self.build_norm(config)
        self.attention = self.build_attention(config)
        self.feed_forward_norm = self.build_norm(config)
        self.feed_forward = self.build_feed_forward(config)
        self.dropout = Dropout(config.dropout)

    def build_attention(self, config: TransformerConfig) -> nn.Module:
        """The attention block; anything with the `forward` and `cache_dims` of `Attention`."""
        return Attention(config)

    def build_feed_forward(self, config: TransformerConfig) -> nn.Module:
        """The feed-forward: [B, T, D] -> [B, T, D]."""
        return FeedForward(config)

    def build_norm(self, config: TransformerConfig) -> nn.Module:
        """A norm of the residual stream: [B, T, D] -> [B, T, D]."""
        return build_norm(config)

    def forward(self, x: Tensor, scope: Scope, past: KeyValue | None = None) -> tuple[Tensor, KeyValue | None]:
        """[B, T, D] -> [B, T, D], and the cache with the new tokens in it when there is one."""
        x, present = self._attend(x, scope, past)
        return self._feed_forward(x), present

    def _attend(self, x: Tensor, scope: Scope, past: KeyValue | None) -> tuple[Tensor, KeyValue | None]:
        if self.pre_norm:
            out, present = self.attention(self.attention_norm(x), scope, past=past)
            return x + self.dropout(out), present
        out, present = self.attention(x, scope, past=past)
        return self.attention_norm(x + self.dropout(out)), present

    def _feed_forward(self, x: Tensor) -> Tensor:
        if self.pre_norm:
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class DecoderLayer(EncoderLayer):
    """An `EncoderLayer`, with attention to a memory between its two halves when there is an encoder."""

    def __init__(self, config: TransformerConfig, cross_attention: bool = False) -> None:
        super().__init__(config)
        self.cross_norm = self.build_norm(config) if cross_attention else None
        self.cross_attention = self.build_cross_attention(config) if cross_attention else None

    def build_cross_attention(self, config: TransformerConfig) -> nn.Module:
        """The attention to the memory; it needs `keys_values` besides `forward`."""
        return self.build_attention(config)

    def forward(
        self,
        x: Tensor,
        scope: Scope,
        past: KeyValue | None = None,
        memory: Tensor | KeyValue | None = None,
        memory_scope: Scope | None = None,
    ) -> tuple[Tensor, KeyValue | None]:
        """As `EncoderLayer.forward`; `memory` is what the encoder gave, [B, S, D], or this layer's keys and values."""
        x, present = self._attend(x, scope, past)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = self._cross_attend(x, memory, memory_scope)
        return self._feed_forward(x), present

    def _cross_attend(self, x: Tensor, memory: Tensor | KeyValue | None, memory_scope: Scope | None) -> Tensor:
        assert self.cross_attention is not None and self.cross_norm is not None
        if self.pre_norm:
            return x + self.dropout(self.cross_attention(self.cross_norm(x), memory_scope, memory=memory)[0])
        return self.cross_norm(x + self.dropout(self.cross_attention(x, memory_scope, memory=memory)[0]))
