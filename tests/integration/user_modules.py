"""What users write: modules outside the package, with parts of their own."""

import torch
from torch import Tensor, nn

from litseq.models import DecoderOnly, EncoderDecoder
from litseq.nn import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    KeyValue,
    PositionScheme,
    Scope,
    TransformerConfig,
    TransformerDecoder,
    TransformerEncoder,
)
from litseq.nn.ops import write_cache


class GatedFeedForward(nn.Module):
    """A feed-forward of another kind: GELU gate, one matrix for both halves."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(config.embed_dim, 2 * width)
        self.down = nn.Linear(width, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(nn.functional.gelu(gate) * value)


class NormedEncoderLayer(EncoderLayer):
    """Another feed-forward, and one more norm behind it."""

    def __init__(self, config: TransformerConfig, width: int) -> None:
        self.width = width
        super().__init__(config)
        self.output_norm = nn.LayerNorm(config.embed_dim)

    def build_feed_forward(self, config: TransformerConfig) -> nn.Module:
        return GatedFeedForward(config, self.width)

    def forward(self, x: Tensor, scope: Scope, past: KeyValue | None = None) -> tuple[Tensor, KeyValue | None]:
        x, present = super().forward(x, scope, past)
        return self.output_norm(x), present


class NormedDecoderLayer(DecoderLayer):
    """The same for the decoder."""

    def __init__(self, config: TransformerConfig, cross_attention: bool, width: int) -> None:
        self.width = width
        super().__init__(config, cross_attention)
        self.output_norm = nn.LayerNorm(config.embed_dim)

    def build_feed_forward(self, config: TransformerConfig) -> nn.Module:
        return GatedFeedForward(config, self.width)

    def forward(self, *args: object, **options: object) -> tuple[Tensor, KeyValue | None]:
        x, present = super().forward(*args, **options)
        return self.output_norm(x), present


class NormedEncoder(TransformerEncoder):
    def __init__(self, config: TransformerConfig, width: int) -> None:
        self.width = width
        super().__init__(config)

    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return NormedEncoderLayer(config, self.width)


class NormedDecoder(TransformerDecoder):
    def __init__(self, config: TransformerConfig, embedding: nn.Embedding | None, width: int) -> None:
        self.width = width
        super().__init__(config, cross_attention=True, embedding=embedding)

    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return NormedDecoderLayer(config, self.has_cross_attention, self.width)


class NormedTranslator(EncoderDecoder):
    """An encoder-decoder with another feed-forward and one more norm; one argument more than its parent."""

    def __init__(self, gate_width: int = 48, **kwargs: object) -> None:
        self.gate_width = gate_width
        super().__init__(**kwargs)

    def build_encoder(self, config: TransformerConfig) -> TransformerEncoder:
        return NormedEncoder(config, self.gate_width)

    def build_decoder(self, config: TransformerConfig, embedding: nn.Embedding | None) -> TransformerDecoder:
        return NormedDecoder(config, embedding, self.gate_width)


class TalkingHeads(nn.Module):
    """An attention in plain torch, nothing of `Attention` in it: heads are mixed before and after the softmax.

    Only the contract is ours: the arguments of `forward`, `scope.dense_mask`, `write_cache` and `cache_dims`.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_heads, config.head_width
        inner = self.heads * self.width
        self.query, self.key, self.value = (nn.Linear(config.embed_dim, inner) for _ in range(3))
        self.before = nn.Parameter(torch.eye(self.heads))
        self.after = nn.Parameter(torch.eye(self.heads))
        self.out = nn.Linear(inner, config.embed_dim)

    def forward(
        self, x: Tensor, scope: Scope, *, memory: Tensor | KeyValue | None = None, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue | None]:
        query, key, value = (self.split(linear(x)) for linear in (self.query, self.key, self.value))
        present = None
        if past is not None:
            key = write_cache(past.key, key, scope.positions)
            value = write_cache(past.value, value, scope.positions)
            present = KeyValue(key, value)
        scores = query @ key.transpose(-1, -2) / self.width**0.5  # [B, H, T, S]
        scores = torch.einsum("bhts,hg->bgts", scores, self.before)
        scores = scores.masked_fill(~scope.dense_mask(key.shape[2]), float("-inf"))
        weights = torch.einsum("bhts,hg->bgts", scores.softmax(-1), self.after)
        return self.out((weights @ value).transpose(1, 2).flatten(2)), present

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.width)).transpose(1, 2)

    def cache_dims(self) -> tuple[tuple[int | None, ...], ...]:
        return (self.heads, None, self.width), (self.heads, None, self.width)


class TalkingLayer(DecoderLayer):
    def build_attention(self, config: TransformerConfig) -> nn.Module:
        return TalkingHeads(config)


class TalkingDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return TalkingLayer(config)


class TalkingModel(DecoderOnly):
    """A decoder-only model whose attention is written in plain torch."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return TalkingDecoder(config)


class CappedAttention(Attention):
    """Only the computation is another: scores are bounded by a tanh."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        group = self.num_heads // self.num_kv_heads
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        scores = 5 * torch.tanh(query @ key.transpose(-1, -2) * self.scale / 5)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ value


class CappedLayer(DecoderLayer):
    def build_attention(self, config: TransformerConfig) -> nn.Module:
        return CappedAttention(config)


class CappedDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return CappedLayer(config, self.has_cross_attention)


class CappedTranslator(EncoderDecoder):
    """An encoder-decoder whose decoder bounds its scores, in self and cross attention."""

    def build_decoder(self, config: TransformerConfig, embedding: nn.Embedding | None) -> TransformerDecoder:
        return CappedDecoder(config, cross_attention=True, embedding=embedding)


class PlacedAttention(Attention):
    """A window that takes places in the tensors for positions: right in training, wrong behind a cache."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        place = torch.arange(query.shape[2], device=query.device)[:, None]
        near = (place - torch.arange(key.shape[2], device=query.device)).abs() < 30
        if is_causal:
            mask = torch.ones_like(near).tril()
        return super().attend(query, key, value, near if mask is None else mask & near, False)


class PlacedModel(DecoderOnly):
    """A model that is wrong beyond 30 tokens only."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        decoder = super().build_decoder(config)
        for layer in decoder.layers:
            layer.attention = PlacedAttention(config)
        return decoder


class Alibi(PositionScheme):
    """Linear biases on the scores (https://arxiv.org/abs/2108.12409)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, heads + 1), persistent=False)

    def bias(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        distance = (query_positions[:, None, :, None] - key_positions[:, None, None, :]).abs()
        return -self.slopes[:, None, None] * distance


class AlibiDecoder(TransformerDecoder):
    def build_positions(self, config: TransformerConfig) -> PositionScheme:
        return Alibi(config.num_heads)


class AlibiModel(DecoderOnly):
    """A decoder-only model with another position scheme."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return AlibiDecoder(config)


class DecayingMemory(nn.Module):
    """Not an attention at all: a decaying sum of the past, whose cache is one state of fixed size."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.value, self.out = (nn.Linear(config.embed_dim, config.embed_dim) for _ in range(2))
        self.decay = nn.Parameter(torch.full((config.embed_dim,), 1.0))

    def forward(
        self, x: Tensor, scope: Scope, *, memory: Tensor | None = None, past: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        length = x.shape[1]
        decay = self.decay.sigmoid()
        index = torch.arange(length, device=x.device)
        powers = (index[:, None] - index).clamp(min=0)[..., None]  # [T, T, 1]
        weights = torch.where(index[:, None, None] >= index[:, None], decay**powers, 0.0)  # [T, T, D]
        values = self.value(x)
        summed = torch.einsum("tsd,bsd->btd", weights, values)
        if past is None:
            return self.out(summed), None
        summed = summed + decay ** (index[:, None] + 1) * past[0][:, None]
        # The state behind each row's last real token.
        last = (scope.step.new_lengths - 1).long()[:, None, None].expand(-1, 1, x.shape[2])
        return self.out(summed), (summed.gather(1, last)[:, 0],)

    def cache_dims(self) -> tuple[tuple[int | None, ...], ...]:
        return ((self.decay.shape[0],),)


class RecurrentLayer(DecoderLayer):
    def build_attention(self, config: TransformerConfig) -> nn.Module:
        return DecayingMemory(config)


class MixedDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return RecurrentLayer(config) if index % 2 else DecoderLayer(config)


class MixedModel(DecoderOnly):
    """Layers of attention and layers of a recurrence, in turn."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return MixedDecoder(config)


class GrowingHeads(TalkingHeads):
    """Appends to its cache instead of writing into it."""

    def forward(
        self, x: Tensor, scope: Scope, *, memory: Tensor | KeyValue | None = None, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue | None]:
        query, key, value = (self.split(linear(x)) for linear in (self.query, self.key, self.value))
        if past is not None:
            key, value = torch.cat([past.key, key], 2), torch.cat([past.value, value], 2)
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.out(out.transpose(1, 2).flatten(2)), None if past is None else KeyValue(key, value)


class GrowingLayer(DecoderLayer):
    def build_attention(self, config: TransformerConfig) -> nn.Module:
        return GrowingHeads(config)


class GrowingDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return GrowingLayer(config)


class GrowingModel(DecoderOnly):
    """A cache that changes its shape."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return GrowingDecoder(config)


class SilentHeads(nn.Module):
    """An attention that does not say what its cache is."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, scope: Scope, **_: object) -> tuple[Tensor, None]:
        return self.linear(x), None


class SilentLayer(DecoderLayer):
    def build_attention(self, config: TransformerConfig) -> nn.Module:
        return SilentHeads(config)


class SilentDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return SilentLayer(config)


class SilentModel(DecoderOnly):
    """An attention without `cache_dims`."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return SilentDecoder(config)


class UnexportableFeedForward(nn.Module):
    """Sorts the residual stream by a Python loop over values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # a Python branch on a tensor's value
            return self.linear(x)
        return x


class UnexportableLayer(DecoderLayer):
    def build_feed_forward(self, config: TransformerConfig) -> nn.Module:
        return UnexportableFeedForward(config)


class UnexportableDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return UnexportableLayer(config)


class UnexportableModel(DecoderOnly):
    """A model that no graph can hold."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return UnexportableDecoder(config)


class UnknownOpFeedForward(UnexportableFeedForward):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.special.i0(x)  # no ONNX form


class UnknownOpLayer(DecoderLayer):
    def build_feed_forward(self, config: TransformerConfig) -> nn.Module:
        return UnknownOpFeedForward(config)


class UnknownOpDecoder(TransformerDecoder):
    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        return UnknownOpLayer(config)


class UnknownOpModel(DecoderOnly):
    """A model with an operation that ONNX lacks."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return UnknownOpDecoder(config)
