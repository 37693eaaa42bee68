"""The graphs of a bundle: what goes in, what comes out, under which names.

Letters: B rows, T new tokens, M capacity of the caches, S source tokens, N rows of logits, V vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from litseq.errors import ExportError
from litseq.nn import Step, TransformerDecoder, TransformerEncoder
from litseq.nn.attention import layer_state

DYNAMIC = torch.export.Dim.DYNAMIC

# Every traced size is at least two and no two are equal: the tracer takes 0, 1 and equal sizes for constants.
TRACE_ROWS, TRACE_NEW, TRACE_PAST, TRACE_CAPACITY, TRACE_SOURCE, TRACE_LOGITS = 3, 5, 4, 13, 7, 6


@dataclass
class GraphSpec:
    """A module to trace, with its inputs in order."""

    module: nn.Module
    inputs: dict[str, Tensor]
    """Example of each input."""
    dynamic: dict[str, dict[int, Any]]
    """Dimensions of each input that vary."""
    outputs: list[str]
    cache: list[tuple[str, str, tuple[str | int, ...]]] = field(default_factory=list)
    """Names of past and present and the dimensions of each cache tensor."""
    cross: list[tuple[str, tuple[str | int, ...]]] = field(default_factory=list)
    """Names and dimensions of what the encoder gives and the decoder takes."""
    fixed_inputs: int = 0
    """Inputs that `module.forward` names; the others come in as one list behind them."""
    search_on: str | None = None
    """The logits to take the best tokens of, in the graph."""

    def arguments(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """Values by input name, as `module.forward` takes them."""
        ordered = [values[name] for name in self.inputs]
        head, states = ordered[: self.fixed_inputs], ordered[self.fixed_inputs :]
        return (*head, states) if states else tuple(head)


class DecoderGraph(nn.Module):
    """One call of the decoder with its cache, logits of the wanted positions only."""

    def __init__(self, decoder: TransformerDecoder, cache_layers: list[int], cross_layers: list[int], prefix: bool):
        super().__init__()
        self.decoder = decoder
        self.cache_layers = cache_layers
        self.cross_layers = cross_layers
        self.prefix = prefix

    def forward(
        self,
        input_ids: Tensor,
        new_lengths: Tensor,
        last_positions: Tensor,
        total_length: Tensor,
        logit_rows: Tensor,
        states: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Read new tokens.

        `states` are: prefix lengths (prefix-LM only), caches by layer, then source lengths and cross keys and values by
        layer (encoder-decoder only).
        """
        rest = list(states)
        prefix_lengths = rest.pop(0) if self.prefix else None
        past, rest = _by_layer(rest, self.cache_layers)
        memory_lengths = rest.pop(0) if rest else None
        cross, _ = _by_layer(rest, self.cross_layers)
        step = Step(last_positions, new_lengths, total_length, prefix_lengths)
        hidden, present = self.decoder.step(input_ids, step, past, cross if self.cross_layers else None, memory_lengths)
        # Gather before the projection: a prompt would otherwise pay for the logits of every position.
        logits = self.decoder.logits(hidden.flatten(0, 1).index_select(0, logit_rows))
        return logits, *(tensor for layer in present for tensor in layer)


class EncoderGraph(nn.Module):
    """The encoder, and the keys and values that every decoder layer makes of what it gives."""

    def __init__(self, encoder: TransformerEncoder, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Source tokens [B, S] and their lengths int32 [B] -> cross keys and values, layer by layer."""
        memory = self.encoder(input_ids, lengths=lengths)
        return tuple(tensor for layer in self.decoder.cross_keys_values(memory) for tensor in layer)


def _by_layer(tensors: list[Tensor], counts: list[int]) -> tuple[list[Any], list[Tensor]]:
    layers, start = [], 0
    for count in counts:
        layers.append(layer_state(tensors[start : start + count]))
        start += count
    return layers, tensors[start:]


def decoder_spec(decoder: TransformerDecoder, prefix: bool = False) -> GraphSpec:
    """The decoder graph of a module, ready to trace.

    Args:
        decoder: the stack; what its layers' `cache_dims` say becomes the cache.
        prefix: give the graph `prefix_lengths`, for a model whose prefix sees itself whole.
    """
    try:
        layers = decoder.cache_dims()
    except AttributeError as error:
        raise ExportError(
            f"the decoder does not say what its layers carry from call to call: {error}; an attention of your own needs "
            "cache_dims(), and a layer keeps it as `attention`, see docs/subclassing.md"
        ) from error
    inputs: dict[str, Tensor] = {
        "input_ids": torch.zeros(TRACE_ROWS, TRACE_NEW, dtype=torch.int64),
        "new_lengths": torch.tensor([TRACE_NEW, 2, 4], dtype=torch.int32),
        "last_positions": torch.tensor([TRACE_PAST + TRACE_NEW - 1, 4, 7], dtype=torch.int32),
        "total_length": torch.tensor(TRACE_PAST + TRACE_NEW, dtype=torch.int32),
        "logit_rows": torch.arange(TRACE_LOGITS),
    }
    dynamic: dict[str, dict[int, Any]] = {
        "input_ids": {0: DYNAMIC, 1: DYNAMIC},
        "new_lengths": {0: DYNAMIC},
        "last_positions": {0: DYNAMIC},
        "total_length": {},
        "logit_rows": {0: DYNAMIC},
    }
    if prefix:
        inputs["prefix_lengths"] = torch.tensor([3, 0, 2], dtype=torch.int32)
        dynamic["prefix_lengths"] = {0: DYNAMIC}
    cache = []
    for i, layer in enumerate(layers):
        for part, dims in zip(_part_names(len(layer)), layer, strict=True):
            past, present = f"past_{part}.{i}", f"present_{part}.{i}"
            cache.append((past, present, ("batch", *("capacity" if d is None else d for d in dims))))
            inputs[past] = torch.zeros(TRACE_ROWS, *(TRACE_CAPACITY if d is None else d for d in dims))
            dynamic[past] = {0: DYNAMIC} | {j + 1: DYNAMIC for j, d in enumerate(dims) if d is None}
    cross: list[tuple[str, tuple[str | int, ...]]] = []
    cross_layers: list[int] = []
    if decoder.has_cross_attention:
        inputs["source_lengths"] = torch.tensor([TRACE_SOURCE, 3, 5], dtype=torch.int32)
        dynamic["source_lengths"] = {0: DYNAMIC}
        cross, tensors, cross_layers = _cross_inputs(decoder)
        for (name, _), tensor in zip(cross, tensors, strict=True):
            inputs[name], dynamic[name] = tensor, {0: DYNAMIC, 2: DYNAMIC}
    return GraphSpec(
        DecoderGraph(decoder, [len(layer) for layer in layers], cross_layers, prefix),
        inputs,
        dynamic,
        ["logits", *(present for _, present, _ in cache)],
        cache,
        cross,
        fixed_inputs=5,
        search_on="logits",
    )


def encoder_spec(encoder: TransformerEncoder, decoder: TransformerDecoder) -> GraphSpec:
    """The encoder graph of a module, ready to trace; its outputs are the decoder's cross keys and values."""
    cross, _, _ = _cross_inputs(decoder)
    ids = torch.zeros(TRACE_ROWS, TRACE_SOURCE, dtype=torch.int64)
    return GraphSpec(
        EncoderGraph(encoder, decoder),
        {"input_ids": ids, "lengths": torch.tensor([TRACE_SOURCE, 3, 5], dtype=torch.int32)},
        {"input_ids": {0: DYNAMIC, 1: DYNAMIC}, "lengths": {0: DYNAMIC}},
        [name for name, _ in cross],
        fixed_inputs=2,
    )


def _cross_inputs(
    decoder: TransformerDecoder,
) -> tuple[list[tuple[str, tuple[str | int, ...]]], list[Tensor], list[int]]:
    """Names, dimensions and examples of the cross keys and values, found by making some."""
    with torch.no_grad():
        memory = torch.zeros(TRACE_ROWS, TRACE_SOURCE, decoder.config.embed_dim)
        made = decoder.cross_keys_values(memory)
    names: list[tuple[str, tuple[str | int, ...]]] = []
    for i, layer in enumerate(made):
        for part, tensor in zip(_part_names(len(layer)), layer, strict=True):
            names.append((f"cross_{part}.{i}", ("batch", tensor.shape[1], "source", *tensor.shape[3:])))
    # Fresh tensors: a view would make the tracer guard on the tensor it is a view of.
    examples = [torch.zeros(tensor.shape) for layer in made for tensor in layer]
    return names, examples, [len(layer) for layer in made]


def _part_names(count: int) -> tuple[str, ...]:
    return ("key", "value") if count == 2 else tuple(f"state{i}" for i in range(count))
