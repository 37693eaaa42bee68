"""The two stacks: an encoder that reads a sequence at once, a decoder that continues one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from litseq.nn.attention import CacheDims, KeyValue, LayerState, layer_state
from litseq.nn.config import TransformerConfig
from litseq.nn.dropout import Dropout
from litseq.nn.feed_forward import build_norm
from litseq.nn.layers import DecoderLayer, EncoderLayer
from litseq.nn.positions import PositionScheme, build_positions
from litseq.nn.scope import Scope, Step

INIT_STD = 0.02


class _Stack(nn.Module):
    """Embedding, positions, layers, final norm."""

    layers: nn.ModuleList

    def __init__(self, config: TransformerConfig, embedding: nn.Embedding | None) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding if embedding is not None else nn.Embedding(config.vocab_size, config.embed_dim)
        self.positions = self.build_positions(config)
        self.dropout = Dropout(config.dropout)
        self.final_norm = build_norm(config) if config.norm_position == "pre" else nn.Identity()

    def build_positions(self, config: TransformerConfig) -> PositionScheme:
        """The position scheme of the stack."""
        return build_positions(config)

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        if self.config.scale_embeddings:
            x = x * self.config.embed_dim**0.5
        return self.dropout(self.positions.embed(x, positions))

    def _check_length(self, input_ids: Tensor) -> None:
        length, limit = input_ids.shape[1], self.config.max_seq_len
        # Under torch.export the length is a symbol, and a comparison would pin it.
        if not torch.compiler.is_exporting() and length > limit:
            raise ValueError(
                f"{type(self).__name__}: {length} tokens in a row, max_seq_len is {limit}: shorten the sequences or "
                "build the model with a larger max_seq_len"
            )

    def _reset_parameters(self) -> None:
        """Normal weights, the ones that write to the residual stream smaller with depth (GPT-2's recipe)."""
        residual_std = INIT_STD / (2 * len(self.layers)) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=residual_std if name.endswith((".out", ".down")) else INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                is_token_table = module is self.embedding and self.config.scale_embeddings
                nn.init.normal_(module.weight, std=self.config.embed_dim**-0.5 if is_token_table else INIT_STD)


class TransformerEncoder(_Stack):
    """Reads a whole sequence at once.

    Args:
        config: shape and flavour.
        embedding: a token table to share; None makes one.
    """

    def __init__(self, config: TransformerConfig, embedding: nn.Embedding | None = None) -> None:
        super().__init__(config, embedding)
        self.layers = nn.ModuleList(self.build_layer(config, i) for i in range(config.num_layers))
        self._reset_parameters()

    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        """Layer number `index`; anything with the `forward` of `EncoderLayer`."""
        return EncoderLayer(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> Tensor:
        """Encode.

        Args:
            input_ids: int64 [B, S], right padded.
            attention_mask: True where there is a token, bool [B, S]; None: everywhere.
            lengths: the same as lengths, int32 [B]; the form the exported graph takes.

        Returns:
            [B, S, D].

        Raises:
            ValueError: a row is longer than `max_seq_len`.
        """
        self._check_length(input_ids)
        scope = Scope.bidirectional(
            input_ids.shape[1], self.positions, None if attention_mask is None else attention_mask.bool(), lengths
        )
        assert scope.positions is not None
        x = self._embed(input_ids, scope.positions.to(input_ids.device))
        for layer in self.layers:
            x, _ = layer(x, scope)
        return self.final_norm(x)


class TransformerDecoder(_Stack):
    """Continues a sequence, with or without a memory to attend to.

    Args:
        config: shape and flavour.
        cross_attention: give every layer an attention to the memory.
        embedding: a token table to share; None makes one.
    """

    def __init__(
        self, config: TransformerConfig, cross_attention: bool = False, embedding: nn.Embedding | None = None
    ) -> None:
        super().__init__(config, embedding)
        self.has_cross_attention = cross_attention
        self.layers = nn.ModuleList(self.build_layer(config, i) for i in range(config.num_layers))
        self.lm_head = None if config.tie_embeddings else nn.Linear(config.embed_dim, config.vocab_size, bias=False)
        self._reset_parameters()

    def build_layer(self, config: TransformerConfig, index: int) -> nn.Module:
        """Layer number `index`; anything with the `forward` of `DecoderLayer`."""
        return DecoderLayer(config, self.has_cross_attention)

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        prefix_lengths: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> Tensor:
        """Read whole sequences, as in training.

        Args:
            input_ids: int64 [B, T], right padded.
            attention_mask: not needed, since padding on the right is never seen; taken so that a batch can be passed.
            segment_ids: packed documents, int64 [B, T], none of them longer than `max_seq_len`.
            prefix_lengths: tokens at the beginning that all see each other, int64 [B].
            memory: what the encoder gave, [B, S, D].
            memory_mask: True where the memory is real, bool [B, S].

        Returns:
            Hidden states [B, T, D], for `logits`.

        Raises:
            ValueError: a row that is not packed is longer than `max_seq_len`.
        """
        if segment_ids is None:  # else positions begin anew, and documents are not measured in every step
            self._check_length(input_ids)
        scope = Scope.causal(input_ids, self.positions, segment_ids, prefix_lengths)
        memory_scope = Scope.memory(None if memory_mask is None else memory_mask.bool())
        assert scope.positions is not None
        x = self._embed(input_ids, scope.positions)
        for layer in self.layers:
            x, _ = layer(x, scope, memory=memory, memory_scope=memory_scope)
        return self.final_norm(x)

    def step(
        self,
        input_ids: Tensor,
        step: Step,
        past: Sequence[LayerState],
        cross: Sequence[KeyValue] | None = None,
        memory_lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Read new tokens behind a cache.

        Args:
            input_ids: int64 [B, T], right padded.
            step: age of each row and its new tokens.
            past: each layer's cache.
            cross: each layer's keys and values of the memory, as `cross_keys_values` makes them.
            memory_lengths: tokens of each memory, int32 [B].

        Returns:
            Hidden states [B, T, D], and the caches with the new tokens in them.
        """
        scope = Scope.cached(step, input_ids.shape[1], self._capacity(past), self.positions)
        memory_scope = None if cross is None else Scope.memory(key_lengths=memory_lengths)
        assert scope.positions is not None
        x = self._embed(input_ids, scope.positions)
        present = []
        for i, layer in enumerate(self.layers):
            x, layer_present = layer(x, scope, past[i], None if cross is None else cross[i], memory_scope)
            present.append(layer_present)
        return self.final_norm(x), present

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary: [..., D] -> [..., V]."""
        return F.linear(hidden, self.embedding.weight) if self.lm_head is None else self.lm_head(hidden)

    def cross_keys_values(self, memory: Tensor) -> list[KeyValue]:
        """Each layer's keys and values of the memory [B, S, D], computed once per sequence; none where it has no use for it."""
        parts = [layer.cross_attention for layer in self.layers]
        # To mypy what a ModuleList holds is any module, and its attributes tensors.
        return [() if part is None else part.keys_values(memory) for part in parts]  # type: ignore[union-attr,operator]

    def cache_dims(self) -> list[tuple[CacheDims, ...]]:
        """Each layer's cache tensors: their shapes behind the batch dimension, None where the capacity stands."""
        return [layer.attention.cache_dims() for layer in self.layers]  # type: ignore[union-attr,operator]  # as above

    def _capacity(self, past: Sequence[LayerState]) -> int:
        """M of the first cache that grows: a layer may carry states of fixed size instead."""
        for tensors, layer in zip(past, self.cache_dims(), strict=True):
            for tensor, dims in zip(tensors, layer, strict=True):
                if None in dims:
                    return tensor.shape[1 + dims.index(None)]
        return 0

    def new_cache(self, rows: int, capacity: int) -> list[LayerState]:
        """Empty caches for `rows` rows of up to `capacity` tokens."""
        like = next(self.parameters())
        return [
            layer_state(like.new_zeros(rows, *(capacity if d is None else d for d in dims)) for dims in layer)
            for layer in self.cache_dims()
        ]
