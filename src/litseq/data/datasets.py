"""Datasets over compact arrays: pairs, blocks of packed documents, prompts."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from litseq.data.ragged import Counts, Ids, Ragged

Example = tuple[Ids, ...]


class SequenceDataset(Dataset[Example], ABC):
    """Examples of token ids with their lengths known beforehand, which is what batches are made from."""

    lengths: Counts
    """[N, K]: the lengths of the K tensors each example adds to."""
    varies: ClassVar[bool] = False
    """Whether an example is another in every epoch; its key in training is `index + epoch * len(self)` then."""
    facts: Mapping[str, int] = MappingProxyType({})
    """What else the fingerprint of the data says of these examples."""

    @property
    def tokens(self) -> int:
        """Positions that hold a token, padding not counted."""
        return int(self.token_counts.sum())

    @property
    def token_counts(self) -> Counts:
        """[N]: the same of each example."""
        counts: Counts = self.lengths.sum(axis=1)
        return counts

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The arrays of one example, as the collate function for this dataset takes them."""


class PairDataset(SequenceDataset):
    """(source, target): the source as it is rendered, the target up to and with its end."""

    def __init__(self, sources: Ragged, targets: Ragged, joined: bool) -> None:
        self.sources = sources
        self.targets = targets
        # One sequence of source and target: as many inputs as there are tokens with a successor.
        both = (sources.lengths + targets.lengths - 1,) if joined else (sources.lengths, targets.lengths)
        self.lengths = np.stack(both, axis=1)

    def __getitem__(self, index: int) -> Example:
        return self.sources[index], self.targets[index]


class BlockDataset(SequenceDataset):
    """(inputs, labels, segments): a block of pieces of documents, padded to `size`."""

    def __init__(self, documents: Ragged, starts: Counts, piece_lengths: Counts, bounds: Counts, size: int) -> None:
        """Take the pieces in the order of the blocks; block b holds pieces bounds[b] to bounds[b + 1]."""
        self.flat = documents.flat
        self.starts = starts
        self.piece_lengths = piece_lengths
        self.bounds = bounds
        self.lengths = np.full((len(bounds) - 1, 1), size, dtype=np.int64)

    @property
    def token_counts(self) -> Counts:
        """Positions that hold a token, the rest of a block not counted."""
        counts: Counts = np.add.reduceat(self.piece_lengths, self.bounds[:-1])
        return counts

    def __getitem__(self, index: int) -> Example:
        pieces = slice(self.bounds[index], self.bounds[index + 1])
        spans = list(zip(self.starts[pieces], self.piece_lengths[pieces], strict=True))
        # Pieces of one document may share a block; each is a segment of its own, as if it were another document.
        inputs = np.concatenate([self.flat[start : start + length] for start, length in spans])
        labels = np.concatenate([self.flat[start + 1 : start + 1 + length] for start, length in spans])
        segments = np.repeat(np.arange(1, len(spans) + 1, dtype=np.int32), self.piece_lengths[pieces])
        return inputs, labels, segments


class PromptDataset(SequenceDataset):
    """(prompt,): the ids a model generates from."""

    def __init__(self, prompts: Ragged) -> None:
        self.prompts = prompts
        self.lengths = prompts.lengths[:, None]

    def __getitem__(self, index: int) -> Example:
        return (self.prompts[index],)
