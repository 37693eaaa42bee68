"""Datasets over compact arrays: pairs, blocks of packed documents, prompts."""

from abc import ABC, abstractmethod

import numpy as np
from torch.utils.data import Dataset

from litseq.data.ragged import Counts, Ids, Ragged

Example = tuple[Ids, ...]


class SequenceDataset(Dataset[Example], ABC):
    """Examples of token ids with their lengths known beforehand, which is what batches are made from."""

    lengths: Counts
    """[N, K]: the lengths of the K tensors each example adds to."""

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


class PromptDataset(SequenceDataset):
    """(prompt,): the ids a model generates from."""

    def __init__(self, prompts: Ragged) -> None:
        self.prompts = prompts
        self.lengths = prompts.lengths[:, None]

    def __getitem__(self, index: int) -> Example:
        return (self.prompts[index],)
