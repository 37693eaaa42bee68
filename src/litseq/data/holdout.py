"""Cut a validation split from the training examples."""

import numpy as np
from numpy.typing import NDArray

from litseq.data.sources import Columns
from litseq.errors import DataError


def hold_out(columns: Columns, fraction: float, seed: int) -> dict[str, Columns]:
    """Split columns at random into `train` and `val`, each in the order it had.

    Raises:
        DataError: when one of the two would be empty.
    """
    count = len(columns[0])
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise DataError(f"val_fraction={fraction} of {count} examples leaves a split empty; give val= a file")
    order = np.random.default_rng(seed).permutation(count)
    return {"train": _select(columns, np.sort(order[held_out:])), "val": _select(columns, np.sort(order[:held_out]))}


def _select(columns: Columns, indices: NDArray[np.int64]) -> Columns:
    return tuple([column[index] for index in indices] for column in columns)
