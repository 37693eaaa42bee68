"""Batches from a stream: as much of it as a window holds is read, made into batches as a whole split is, and forgotten."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from litseq.data.hub import DatasetSource, pieces
from litseq.data.sources import Columns, Records
from litseq.errors import DataError, UsageError

WINDOW_CHARACTERS = 2**24
"""Text in a window at most, so that long documents do not fill the memory either."""

Place = dict[str, Any]
"""Where a worker is, in plain types: `state` of the stream and `row` at the beginning of a window, the number of this
`window`, and the batches of it that were handed out (`done`)."""


class BatchMaker(Protocol):
    """What a data module does with the rows of a window; picklable, for worker processes."""

    def read(self, records: Records) -> Columns:
        """Rows as columns."""
        ...

    def characters(self, columns: Columns) -> int:
        """How much text that is."""
        ...

    def batches(self, columns: Columns, seed: int, epoch: int, start: int, shuffle: bool) -> Iterator[Any]:
        """Batches, from number `start` on: a pure function of the arguments."""
        ...


class StreamedBatches(IterableDataset[tuple[Any, Place]]):
    """Batches of the part of a stream that belongs to a rank and a worker, each with its place.

    The stream is divided by `datasets.distributed.split_dataset_by_node`: by its files where their number divides by
    ranks x workers, else each reads all of it and keeps every n-th row.
    """

    def __init__(
        self, source: DatasetSource, maker: BatchMaker, seed: int, ranks: int, rank: int, shuffle: bool
    ) -> None:
        self.source, self.maker, self.seed, self.shuffle = source, maker, seed, shuffle
        self.ranks, self.rank = ranks, rank
        self.epoch = 0
        self.places: dict[int, Place] = {}
        """Where each worker goes on; from the beginning where it is not in it."""
        self.first = 0
        """The worker that is first: a loader takes from its processes in turn."""

    def __iter__(self) -> Iterator[tuple[Any, Place]]:
        from datasets.distributed import split_dataset_by_node

        info = get_worker_info()
        workers = 1 if info is None else info.num_workers
        worker = (self.first + (0 if info is None else info.id)) % workers
        stream = split_dataset_by_node(
            self.source.stream(), rank=self.rank * workers + worker, world_size=self.ranks * workers
        )
        # Rows are taken by `iter`, which leaves the division to us.
        begin = self.places.get(worker)
        if begin is not None:
            stream.load_state_dict(begin["state"])
        begin_row, window, done = (0, 0, 0) if begin is None else (begin["row"], begin["window"], begin["done"])
        for state, row, columns in self._windows(stream, begin_row):
            seed = int(np.random.SeedSequence([self.seed, self.rank, worker, window]).generate_state(1)[0])
            for batch in self.maker.batches(columns, seed, self.epoch, done, self.shuffle):
                done += 1
                yield batch, {"worker": worker, "state": state, "row": row, "window": window, "done": done}
            window, done = window + 1, 0

    def _windows(self, stream: Any, row: int) -> Iterator[tuple[dict[str, Any], int, Columns]]:
        """The rows of each window as columns, with the state and the row at its beginning."""
        state, first = stream.state_dict(), row
        columns: Columns | None = None
        characters = 0
        for records in pieces(stream, self.source.label, row):
            read = self.maker.read(records)
            characters += self.maker.characters(read)
            columns = read if columns is None else tuple(a + b for a, b in zip(columns, read, strict=True))
            row = records.first + len(records)
            if row - first >= self.source.window or characters >= WINDOW_CHARACTERS:
                yield state, first, columns
                state, first, columns, characters = stream.state_dict(), row, None, 0
        if columns is not None:
            yield state, first, columns


class StreamPosition:
    """How far an epoch has come in a stream, worker by worker."""

    def __init__(self) -> None:
        self.epoch = 0
        self._resume: dict[str, Any] | None = None
        self._now: dict[str, Any] = {"batches": 0, "first": 0, "places": {}}
        # Lightning asks for a batch ahead of the one it trains on.
        self._last: deque[dict[str, Any]] = deque(maxlen=4)

    def begin(self, epoch: int, workers: int) -> dict[str, Any]:
        """Start an epoch; where it goes on, which is at its beginning unless a resumed run goes on in it."""
        resume, self._resume = self._resume, None
        if resume is not None:
            # Where a schedule asks how long the training is, the first batch is fetched before Lightning knows the epoch.
            epoch = max(epoch, resume["epoch"])
        self.epoch, self._now = epoch, {"batches": 0, "first": 0, "places": {}}
        if resume is not None and resume["epoch"] == epoch:
            if resume["workers"] != workers:
                raise UsageError(
                    f"the checkpoint was written with num_workers={resume['workers']} and training goes on in the middle "
                    f"of a streamed epoch; use the same number, not {workers}"
                )
            self._now = {name: resume[name] for name in self._now}
        self.workers = workers
        self._last.clear()
        self._last.append(self._now)
        return self._now

    def note(self, place: Place) -> None:
        """A batch was handed out."""
        worker = place["worker"]
        self._now = {
            "batches": self._now["batches"] + 1,
            "first": (worker + 1) % max(1, self.workers),
            "places": self._now["places"] | {worker: place},
        }
        self._last.append(self._now)

    workers = 0

    def state_dict(self, batches: int | None = None, ended: bool = False) -> dict[str, Any]:
        """Where training goes on.

        Args:
            batches: Behind so many batches of the epoch; None: behind the last one that was handed out.
            ended: At the beginning of the next epoch.
        """
        if ended:
            return {"epoch": self.epoch + 1, "workers": self.workers, "batches": 0, "first": 0, "places": {}}
        found = next((now for now in self._last if now["batches"] == batches), self._now)
        return {"epoch": self.epoch, "workers": self.workers, **found}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there at the next `begin`, when it is of the same epoch."""
        self._resume = state


class StreamLoader(DataLoader[Any]):
    """Hands out the batches of a stream and notes where they came from; all ranks end an epoch together."""

    position: StreamPosition
    epoch_of: Callable[[], int] = staticmethod(lambda: 0)
    agree: Callable[[bool], bool] = staticmethod(lambda more: more)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # of what torch returns only `next` is used
        stream = self.dataset
        assert isinstance(stream, StreamedBatches)
        begin = self.position.begin(self.epoch_of(), self.num_workers)
        stream.epoch = self.position.epoch
        stream.places, stream.first = begin["places"], begin["first"]
        for batch, place in super().__iter__():
            if not self.agree(True):
                return
            self.position.note(place)
            yield batch
        if not self.position.state_dict()["batches"]:
            raise DataError(f"{stream.source.label}: no example of it can be used")
        self.agree(False)

    # Lightning takes a loader with these two for resumable; the data module saves and loads the same for itself.

    def state_dict(self) -> dict[str, Any]:
        """See `StreamPosition`."""
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Left to the data module, which knows the rank."""


def all_have_more(trainer: Trainer) -> Callable[[bool], bool]:
    """Whether every rank has a batch: an epoch ends with the one that has none first."""

    def agree(more: bool) -> bool:
        flag = torch.tensor(float(more), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(flag, reduce_op="sum") == trainer.world_size)

    return agree


def begun_batches(trainer: Any) -> tuple[int | None, bool]:
    """The batches of this epoch that training has begun, None where nothing trains, and whether they are all of it."""
    loop = getattr(trainer, "fit_loop", None)
    module: LightningModule | None = getattr(trainer, "lightning_module", None)
    if loop is None or module is None:
        return None, False
    progress = loop.epoch_loop.batch_progress
    return int(progress.current.ready), bool(progress.is_last_batch)


def of_all_ranks(state: dict[str, Any], ranks: int) -> list[dict[str, Any]]:
    """The state of every rank; all of them must call it."""
    states: list[Any] = [state] * ranks
    if ranks > 1:
        torch.distributed.all_gather_object(states, state)
    return states
