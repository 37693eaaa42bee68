"""What a data module does with a window of a stream, in a worker process if need be."""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from litseq.data.hub import DatasetSource
from litseq.data.samplers import EpochSampler
from litseq.data.sources import Columns, Records
from litseq.data.streams import StreamedBatches, StreamLoader, StreamPosition, all_have_more

if TYPE_CHECKING:
    from litseq.data.base import SequenceDataModule


class WindowMaker:
    """Makes batches of a window as its data module makes them of a split."""

    def __init__(self, module: "SequenceDataModule") -> None:
        """Take a copy without trainer and texts, so that it can be sent to a worker."""
        self._module = module.detached()

    def read(self, records: Records) -> Columns:
        """Rows as columns."""
        return self._module.read_all(records)

    def characters(self, columns: Columns) -> int:
        """How much text that is."""
        return sum(map(len, self._module.tokenizer_texts(columns)))

    def batches(self, columns: Columns, seed: int, epoch: int, start: int, shuffle: bool) -> Iterator[Any]:
        """Batches, from number `start` on: a pure function of the arguments."""
        module = self._module
        module.hparams["seed"] = seed
        dataset, _ = module.make_dataset(module.encode(columns))
        if not len(dataset):
            return
        batches, collate = module.make_sampler(dataset, 1, 0, shuffle), module.make_collate(dataset)
        assert isinstance(batches.sampler, EpochSampler)
        batches.sampler.set_epoch(epoch)
        batches.start = start
        for batch in batches:
            yield collate([dataset[index] for index in batch])


def stream_loader(
    module: "SequenceDataModule", source: DatasetSource, position: StreamPosition, shuffle: bool, agree: bool
) -> StreamLoader:
    """A loader over a stream.

    Args:
        module: What reads, encodes and collates.
        source: What is streamed.
        position: Where a resumed epoch goes on.
        shuffle: Shuffle inside a window.
        agree: All ranks end an epoch together.
    """
    ranks, rank = module.ranks
    options = module.hparams
    stream = StreamedBatches(source, WindowMaker(module), options["seed"], ranks, rank, shuffle)
    workers, pin = options["num_workers"], options["pin_memory"]
    loader = StreamLoader(stream, batch_size=None, num_workers=workers, pin_memory=pin)
    loader.position = position
    loader.epoch_of = lambda: getattr(module.trainer, "current_epoch", 0)
    if agree and module.trainer is not None and ranks > 1:
        loader.agree = all_have_more(module.trainer)
    return loader


def model_facts(module: Any) -> SimpleNamespace:
    """What batches depend on of a model: enough for a copy that has no trainer."""
    hparams = getattr(module, "hparams", None)
    limit = getattr(hparams, "max_seq_len", None)
    # A subclass may fix it in its call, and then it is no argument.
    prefix_lm = getattr(module, "prefix_lm", getattr(hparams, "prefix_lm", False))
    return SimpleNamespace(
        architecture=getattr(module, "architecture", None),
        hparams=SimpleNamespace(max_seq_len=limit, prefix_lm=prefix_lm),
    )


def without_trainer(module: "SequenceDataModule") -> "SequenceDataModule":
    """A copy of a data module that shares its tokenizer and has hyper-parameters of its own."""
    copied = copy.copy(module)
    copied.trainer = None
    copied._hparams = copy.copy(module._hparams)
    return copied
