"""From examples to a batch of tensors, as `litseq.nn.batch` defines it; one class a kind of batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litseq.data.ragged import Ids
from litseq.nn.batch import IGNORE_INDEX, DecoderOnlyBatch, EncoderDecoderBatch


def pad(rows: Sequence[Ids], value: int, length: int | None = None) -> Tensor:
    """Rows of different lengths as one right-padded int64 tensor [B, longest]."""
    width = max(map(len, rows)) if length is None else length
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(padded)


def real_positions(rows: Sequence[Ids]) -> Tensor:
    """True where `pad` put a token and not padding, bool [B, longest]."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.arange(int(lengths.max())) < lengths[:, None]


@dataclass(frozen=True)
class CollateEncoderDecoder:
    """(source, target) -> the encoder reads the source, the decoder the target behind its start tokens."""

    pad_id: int
    start_ids: tuple[int, ...]

    def __call__(self, examples: Sequence[tuple[Ids, Ids]]) -> EncoderDecoderBatch:
        """Pad the examples into one batch."""
        sources = [source for source, _ in examples]
        start = np.array(self.start_ids, dtype=np.int32)
        unlabelled = np.full(len(start) - 1, IGNORE_INDEX, dtype=np.int32)
        return {
            "input_ids": pad(sources, self.pad_id),
            "attention_mask": real_positions(sources),
            "decoder_input_ids": pad([np.concatenate([start, target[:-1]]) for _, target in examples], self.pad_id),
            "labels": pad([np.concatenate([unlabelled, target]) for _, target in examples], IGNORE_INDEX),
        }


@dataclass(frozen=True)
class CollateDecoderOnly:
    """(prefix, target) -> one sequence; the loss is on the target, or on the prefix too."""

    pad_id: int
    loss_on_prefix: bool

    def __call__(self, examples: Sequence[tuple[Ids, Ids]]) -> DecoderOnlyBatch:
        """Pad the examples into one batch."""
        joined = [np.concatenate(example) for example in examples]
        labels = [row[1:].copy() for row in joined]
        if not self.loss_on_prefix:
            for row, (prefix, _) in zip(labels, examples, strict=True):
                row[: len(prefix) - 1] = IGNORE_INDEX  # the last token of the prefix predicts the first of the target
        inputs = [row[:-1] for row in joined]
        return {
            "input_ids": pad(inputs, self.pad_id),
            "labels": pad(labels, IGNORE_INDEX),
            "attention_mask": real_positions(inputs),
            "prefix_lengths": torch.tensor([len(prefix) for prefix, _ in examples]),
        }


@dataclass(frozen=True)
class CollateBlocks:
    """(inputs, labels, segments) -> packed rows, all of one length so that every step has the same shape."""

    pad_id: int
    size: int

    def __call__(self, examples: Sequence[tuple[Ids, Ids, Ids]]) -> DecoderOnlyBatch:
        """Pad the blocks into one batch."""
        segments = pad([segments for _, _, segments in examples], 0, self.size)
        return {
            "input_ids": pad([inputs for inputs, _, _ in examples], self.pad_id, self.size),
            "labels": pad([labels for _, labels, _ in examples], IGNORE_INDEX, self.size),
            "attention_mask": segments > 0,
            "segment_ids": segments,
        }


@dataclass(frozen=True)
class CollatePrompts:
    """(prompt,) -> what a model generates from; a decoder-only model is told that all of it is prefix."""

    pad_id: int
    is_prefix: bool

    def __call__(self, examples: Sequence[tuple[Ids]]) -> dict[str, Tensor]:
        """Pad the prompts into one batch."""
        prompts = [prompt for (prompt,) in examples]
        batch = {"input_ids": pad(prompts, self.pad_id), "attention_mask": real_positions(prompts)}
        if self.is_prefix:
            batch["prefix_lengths"] = torch.tensor([len(prompt) for prompt in prompts])
        return batch
