"""A loader of training batches that a resumed run continues in mid-epoch."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from litseq.data.samplers import TokenBatchSampler


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it hands out, and goes on where the position of its batch sampler says.

    What workers have made ahead is not counted, and a resumed run makes it again: a batch depends on the seed, the epoch
    and its place only.
    """

    @property
    def _batches(self) -> TokenBatchSampler:
        assert isinstance(self.batch_sampler, TokenBatchSampler)
        return self.batch_sampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # of what torch returns only `next` is used
        # A generator: the epoch is read at the first batch, when Lightning has set it, and not before.
        batches = self._batches
        batches.start = batches.position.begin(batches.epoch)
        for batch in super().__iter__():
            batches.position.batches += 1
            yield batch

    # Lightning takes a loader with these two for resumable. It fails to load the state when `estimated_stepping_batches`
    # was asked for, as schedules do; the data module saves and loads the same position for itself.

    def state_dict(self) -> dict[str, int]:
        """See `EpochPosition`."""
        return self._batches.position.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """See `EpochPosition`."""
        self._batches.position.load_state_dict(state)
