"""Batches of similar length under a budget of tokens, the same number of them on every rank."""

import heapq
from collections.abc import Iterator, Sized
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, Sampler

from litseq.data.ragged import Counts
from litseq.errors import DataError

# Neighbouring batches whose examples may be shuffled among each other, as long as that pads this share more at most.
POOL_SLACK = 0.015
# First lengths that are taken together when sorting by the second: with both lengths to keep alike, neither comes first.
STRIP = 3


class EpochSampler(Sampler[int]):
    """Says which epoch and which rank it is; the order of the examples is the batch sampler's business.

    Lightning calls `set_epoch`, and under `use_distributed_sampler` puts its `DistributedSampler` in this one's place,
    which carries the same three facts.
    """

    def __init__(self, dataset: Sized, num_replicas: int = 1, rank: int = 0) -> None:
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.dataset), self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.dataset), self.num_replicas))


class EpochPosition:
    """How far an epoch has come: the batches of this rank that were handed out in it."""

    def __init__(self) -> None:
        self.epoch = 0
        self.batches = 0
        self._resume: tuple[int, int] | None = None

    def begin(self, epoch: int) -> int:
        """Start an epoch; the batches of it to leave out, which is none unless a resumed run goes on in it."""
        resumed, done = self._resume or (-1, 0)
        self._resume = None
        self.epoch, self.batches = epoch, done if resumed == epoch else 0
        return self.batches

    def state_dict(self) -> dict[str, int]:
        """Plain numbers for a checkpoint."""
        return {"epoch": self.epoch, "batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind these batches at the next `begin`, when it is of the same epoch."""
        self._resume = int(state["epoch"]), int(state["batches"])


class TokenBatchSampler(BatchSampler):
    """Cuts examples into batches whose padded size stays within `max_tokens`.

    Every rank plans the whole epoch from the seed and takes every `num_replicas`-th batch, so ranks need not talk. Where
    the number of batches does not divide by the ranks, the last ones of the epoch are cut until it does: no example is
    left out and none comes twice, in training and in validation alike, and the number of steps is equal on every rank and
    in every epoch. The examples of a step are those of one process that accumulates as many batches as there are ranks.

    Args:
        sampler: Gives rank, ranks and epoch (`EpochSampler`, or the `DistributedSampler` Lightning injects).
        lengths: [N, K] the lengths of the K tensors an example adds to (source and target; or one sequence).
        max_tokens: Budget of a batch: rows x the sum of the K padded lengths.
        shuffle: Shuffle the examples of similar length, and the order of the batches, anew in every epoch.
        seed: Seed of the shuffling, together with the epoch.
        bucket: Sort by length first. Off, batches keep the given order, ranks may differ by one step, and the last
            may be left without any: for prediction.
        position: Where a resumed epoch goes on, for the loader; an argument so that it outlives the copies Lightning
            makes of a sampler.
        varies: Give out `index + epoch * N` in place of the index, for examples that differ from epoch to epoch.
        drop_last: Must be False; here because Lightning sets it for prediction.
    """

    def __init__(
        self,
        sampler: Sampler[int],
        lengths: Counts,
        max_tokens: int,
        shuffle: bool = False,
        seed: int = 0,
        bucket: bool = True,
        position: EpochPosition | None = None,
        varies: bool = False,
        drop_last: bool = False,
    ) -> None:
        if drop_last:
            raise ValueError("drop_last=True is not supported: batches are cut so that no example has to be dropped")
        super().__init__(sampler, batch_size=1, drop_last=False)
        note_arguments(
            self,
            sampler=sampler,
            lengths=lengths,
            max_tokens=max_tokens,
            shuffle=shuffle,
            seed=seed,
            bucket=bucket,
            position=position,
            varies=varies,
        )
        lengths = np.asarray(lengths, dtype=np.int64)
        if len(lengths) and int(lengths.sum(axis=1).max()) > max_tokens:
            raise ValueError(f"an example of {int(lengths.sum(axis=1).max())} tokens exceeds max_tokens {max_tokens}")
        self.shuffle = shuffle
        self.seed = seed
        self.varies = varies
        self.position = EpochPosition() if position is None else position
        self.start = 0
        """Batches of this rank to leave out at the next iteration only: where a resumed epoch goes on."""
        self._order = _length_order(lengths) if bucket else np.arange(len(lengths))
        steps = np.diff(lengths[self._order], axis=0, prepend=lengths[self._order][:1]).any(axis=1)
        self._kinds = np.cumsum(steps)  # of the examples in order: equal where all lengths are
        bounds = _greedy_bounds(lengths[self._order], max_tokens)
        self._pool_bounds = bounds
        if shuffle:
            self._pool_bounds = _pool_bounds(lengths[self._order], bounds)
            bounds = _even_bounds(lengths[self._order], self._pool_bounds, max_tokens)
        self._bounds = bounds
        self._bucket = bucket
        _ = self.plan(0)  # refuses too few examples now

    @property
    def num_replicas(self) -> int:
        """How many ranks share the epoch."""
        return int(getattr(self.sampler, "num_replicas", 1))

    @property
    def rank(self) -> int:
        """Which of them this is."""
        return int(getattr(self.sampler, "rank", 0))

    @property
    def epoch(self) -> int:
        """The epoch the next iteration is for."""
        return int(getattr(self.sampler, "epoch", 0))

    def plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """All batches of an epoch, of all ranks, in order: a pure function of the data, the seed and the epoch."""
        order = self._order
        if self.shuffle:
            generator = np.random.default_rng([self.seed, epoch])
            order = order[
                np.lexsort((generator.random(len(order)), self._kinds))
            ]  # examples of equal lengths, at no cost
            pool = np.repeat(np.arange(len(self._pool_bounds) - 1), np.diff(self._pool_bounds))
            order = order[np.lexsort((generator.random(len(order)), pool))]
        batches = [order[start:end] for start, end in pairwise(self._bounds)]
        if self.shuffle:
            batches = [batches[index] for index in generator.permutation(len(batches))]
        return _divisible(batches, self.num_replicas) if self._bucket else batches

    def __iter__(self) -> Iterator[list[int]]:
        start, self.start = self.start, 0
        shift = self.epoch * len(self._order) if self.varies else 0
        for batch in self.plan(self.epoch)[self.rank :: self.num_replicas][start:]:
            yield (batch + shift).tolist()

    def __len__(self) -> int:
        batches = len(self._bounds) - 1
        if self._bucket:
            return -(-batches // self.num_replicas)
        return len(range(self.rank, batches, self.num_replicas))


def note_arguments(batches: BatchSampler, **arguments: Any) -> None:
    """Note what a batch sampler is made with, as Lightning does itself for loaders that its own hooks make.

    To predict, and on several devices, Lightning makes the batch sampler anew around another sampler. Without these notes
    it cannot, and a loader that is handed to the trainer as such, `trainer.predict(module, data.predict_dataloader())`,
    fails.
    """
    notes = {"args": (), "kwargs": arguments, "default_kwargs": {"drop_last": False}, "arg_names": ()}
    for name, value in notes.items():
        setattr(batches, f"__pl_saved_{name}", value)


def padding_share(batches: TokenBatchSampler, lengths: Counts, epoch: int = 0) -> float:
    """The share of the positions of an epoch that hold padding, over all ranks.

    Args:
        batches: The sampler.
        lengths: [N, K], what the sampler was made with.
        epoch: Which epoch.
    """
    positions = sum(len(batch) * int(lengths[batch].max(axis=0).sum()) for batch in batches.plan(epoch))
    return 1 - int(lengths.sum()) / positions


def _length_order(lengths: Counts) -> NDArray[np.int64]:
    """Shortest first, and neighbours alike in both lengths.

    By the longer of the two and then by their difference, so that a batch holds pairs of one longer length with the other
    one alike. The difference rises and falls in turn, so that a batch that spans two longer lengths meets similar other
    ones. Real pairs are alike in length: by the first length and then by the second, half as much again is padding.
    """
    if lengths.shape[1] == 1:
        return np.argsort(lengths[:, 0], kind="stable")
    longer, difference = lengths.max(axis=1), lengths[:, 0] - lengths[:, 1]
    return np.lexsort((np.where(longer % 2 == 0, difference, -difference), longer))


def _greedy_bounds(lengths: Counts, max_tokens: int) -> Counts:
    """Batch boundaries when examples are taken in order, each batch as many as fit."""
    bounds = [0]
    widest = [0] * lengths.shape[1]
    for position, row in enumerate(lengths.tolist()):
        grown = [max(a, b) for a, b in zip(widest, row, strict=True)]
        if (position + 1 - bounds[-1]) * sum(grown) > max_tokens:
            bounds.append(position)
            grown = row
        widest = grown
    return np.array([*bounds, len(lengths)] if len(lengths) else [0], dtype=np.int64)


def _pool_bounds(lengths: Counts, bounds: Counts) -> Counts:
    """Join neighbouring batches into pools while the joint padded length costs little more than their own."""
    pools = [0]
    own_tokens = 0
    widest = np.zeros(lengths.shape[1], dtype=np.int64)
    for start, end in pairwise(bounds.tolist()):
        batch = lengths[start:end].max(axis=0)
        grown = np.maximum(widest, batch)
        own_tokens += int(batch.sum()) * (end - start)
        if (end - pools[-1]) * int(grown.sum()) > (1 + POOL_SLACK) * own_tokens:
            if start > pools[-1]:
                pools.append(start)
            own_tokens, grown = int(batch.sum()) * (end - start), batch
        widest = grown
    return np.array([*pools, len(lengths)] if len(lengths) else [0], dtype=np.int64)


def _even_bounds(lengths: Counts, pools: Counts, max_tokens: int) -> Counts:
    """Cut every pool into equal batches that fit the budget whatever examples of the pool they get."""
    bounds = [np.zeros(1, dtype=np.int64)]
    for start, end in pairwise(pools):
        rows = max(1, max_tokens // int(lengths[start:end].max(axis=0).sum()))
        count = -(-(end - start) // rows)
        bounds.append(start + (end - start) * np.arange(1, count + 1) // count)
    return np.concatenate(bounds)


def _divisible(batches: list[NDArray[np.int64]], ranks: int) -> list[NDArray[np.int64]]:
    """Cut the last batches, those with the most examples first, until their number divides by the number of ranks."""
    over = len(batches) % ranks
    if not over:
        return batches
    wanted = ranks
    # Only the last, incomplete step is cut, so that all others are what one process would make of them; a step more
    # where that one has too few examples.
    while sum(map(len, batches[-over:])) < wanted:
        over, wanted = over + ranks, wanted + ranks
        if over > len(batches):
            examples = sum(map(len, batches))
            raise DataError(f"{examples} examples cannot feed {ranks} ranks: use fewer devices or more data")
    heap = [(-len(batch), place, batch) for place, batch in enumerate(batches[-over:])]
    heapq.heapify(heap)
    for place in range(over, wanted):
        _, first, batch = heapq.heappop(heap)
        middle = len(batch) // 2
        heapq.heappush(heap, (-middle, first, batch[:middle]))
        heapq.heappush(heap, (middle - len(batch), place, batch[middle:]))
    return batches[:-over] + [batch for _, _, batch in sorted(heap, key=lambda item: item[1])]
