"""Buffers with one slice a row: key/value caches and cross-attention tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litseq.errors import LitseqError

_ALIGNMENT = 64  # bytes: a cache line, and the widest vector registers


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One buffer: `dims` starts with "batch" and may hold one word, the dimension that grows."""

    name: str
    dims: tuple[int | str, ...]
    dtype: np.dtype[Any]

    @property
    def growing_axis(self) -> int | None:
        """The axis that grows with the sequence; None for a state of fixed size."""
        return next((axis for axis, dim in enumerate(self.dims[1:], 1) if isinstance(dim, str)), None)

    def shape(self, rows: int, length: int) -> tuple[int, ...]:
        """The buffer's shape for `rows` rows of `length` places."""
        return (rows, *(length if isinstance(dim, str) else dim for dim in self.dims[1:]))


class RowStore:
    """Buffers that share their rows and the length of their growing dimension.

    Rows lie one behind the other in C order, so that rows i to j are one block of memory that onnxruntime can be bound
    to. Growing keeps the content; while no row is held, the memory is laid out anew for free.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.specs = tuple(specs)
        self.rows = 0
        self.length = 0
        self.arrays: dict[str, NDArray[Any]] = {spec.name: _zeros(spec.shape(0, 0), spec.dtype) for spec in specs}
        self._memory = {name: array.reshape(-1) for name, array in self.arrays.items()}

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return sum(memory.nbytes for memory in self._memory.values())

    def lay_out(self, rows: int, length: int) -> None:
        """Give the buffers this shape; what they held is lost."""
        if (rows, length) == (self.rows, self.length):
            return
        for spec in self.specs:
            shape = spec.shape(rows, length)
            size = math.prod(shape)
            if size > len(self._memory[spec.name]):
                self._memory[spec.name] = np.empty(0, spec.dtype)  # let the old memory go before asking for more
                self._memory[spec.name] = _zeros((size,), spec.dtype)
            self.arrays[spec.name] = self._memory[spec.name][:size].reshape(shape)
        self.rows, self.length = rows, length

    def grow(self, rows: int, length: int, used_rows: int, used_length: int) -> None:
        """Give the buffers this shape and keep the first `used_length` places of the first `used_rows` rows."""
        for spec in self.specs:
            old = self.arrays[spec.name]
            new = _zeros(spec.shape(rows, length), spec.dtype)
            part = _used(spec, used_length)
            new[(slice(used_rows), *part)] = old[(slice(used_rows), *part)]
            self.arrays[spec.name] = new
            self._memory[spec.name] = new.reshape(-1)
        self.rows, self.length = rows, length

    def keep(self, order: NDArray[np.int64], changed: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        """Make row i what row `order[i]` was, for the rows `changed`; only used places are copied.

        Args:
            order: The old row for each new one.
            changed: The rows to write: those where `order[i]` is not i, or fewer when the caller knows better.
            lengths: Used places of the old rows.
        """
        if not len(changed):
            return
        sources = order[changed]
        # When nothing that is overwritten is read, rows can be copied one by one without a copy in between.
        if not np.isin(changed, sources).any():
            moves = [(to, at, int(lengths[at])) for to, at in zip(changed.tolist(), sources.tolist(), strict=True)]
            for spec in self.specs:
                array, axis = self.arrays[spec.name], spec.growing_axis
                if axis == 2:  # the usual cache [B, K, S, Dh]: the plain index is twice as quick as the general one
                    for to, at, length in moves:
                        array[to, :, :length] = array[at, :, :length]
                else:
                    for to, at, length in moves:
                        array[to][_used(spec, length)] = array[at][_used(spec, length)]
        else:
            longest = int(lengths[sources].max())
            for spec in self.specs:
                array = self.arrays[spec.name][(slice(None), *_used(spec, longest))]
                array[changed] = array[sources]

    def copy_out(self, row: int, length: int) -> dict[str, NDArray[Any]]:
        """A copy of the first `length` places of a row, by name."""
        return {s.name: self.arrays[s.name][row][_used(s, length)].copy() for s in self.specs}

    def copy_in(self, row: int, saved: dict[str, NDArray[Any]], length: int) -> None:
        """Write the first `length` places of what `copy_out` gave into a row."""
        for spec in self.specs:
            part = _used(spec, length)
            self.arrays[spec.name][row][part] = saved[spec.name][part]

    def clear_states(self, first: int, last: int) -> None:
        """Zero the buffers of fixed size for rows `first` to `last`."""
        for spec in self.specs:
            if spec.growing_axis is None:
                self.arrays[spec.name][first:last] = 0


def _used(spec: TensorSpec, length: int) -> tuple[slice, ...]:
    axis = spec.growing_axis
    return () if axis is None else (*(slice(None),) * (axis - 1), slice(length))


def _zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Aligned zeros. Not `np.empty`: a graph that masks may multiply what stands behind a row by 0, and 0 x NaN is NaN."""
    size = math.prod(shape) * dtype.itemsize
    try:
        memory = np.zeros(size + _ALIGNMENT, np.uint8)
    except (MemoryError, ValueError) as error:
        raise LitseqError(
            f"no memory for a cache of {size / 2**30:.1f} GiB; lower batch_size or max_new_tokens, or shorten the prompts"
        ) from error
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
