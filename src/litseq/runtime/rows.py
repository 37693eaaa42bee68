"""Rows of sequences on a bundle's graphs: their caches, their lengths, and calls over any slice of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from litseq.generation import FloatArray, IntArray, Scores
from litseq.runtime.graphs import Array, Graphs
from litseq.runtime.row_store import RowStore
from litseq.runtime.sessions import Binding

CALL_TOKENS = 4096
"""Tokens of one prompt call at most: more costs memory for activations and wins no speed."""

_FIRST_ROOM = 32  # places for new tokens in a fresh cache; it doubles from there
_GRANULE = 16
_SOURCE_GRANULE = 8


class Rows:
    """The caches of rows that run together; row i of every buffer belongs to sequence i.

    The prompt pass and scoring use `call`; the decode step binds the buffers itself and calls `lengthen`.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self.count = 0
        self.longest = 0
        """Tokens in the cache of the longest row."""
        self.version = 0
        """Changes whenever memory moves, so that whoever is bound to it can tell."""
        self._cache = RowStore(graphs.cache_specs)
        self._cross = RowStore(graphs.cross_specs)
        self._states = RowStore([spec for spec in graphs.cache_specs if spec.growing_axis is None])
        """Where states of fixed size are written: a graph may read the old state after it wrote the new one."""
        self.lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._source_lengths: NDArray[np.int32] = np.zeros(0, np.int32)

    @property
    def capacity(self) -> int:
        """Rows that fit without growing."""
        return self._cache.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return self._cache.nbytes + self._cross.nbytes + self._states.nbytes

    def append(self, lengths: Sequence[int], sources: Sequence[Sequence[int]] | None) -> slice:
        """New rows, empty but with room for `lengths` tokens, and with their sources encoded."""
        first, last = self.count, self.count + len(lengths)
        self.make_room(last, max(lengths))
        self._cache.clear_states(first, last)
        if sources is not None:
            self._encode(first, sources)
        self.lengths[first:last] = 0
        self.count = last
        self.version += 1
        return slice(first, last)

    def make_room(self, rows: int, length: int) -> None:
        """Make the caches fit `rows` rows of `length` tokens; lengths double, so that growing is rare."""
        most = max(length, self.graphs.manifest.model.max_seq_len)
        if self.count == 0:
            self._cache.lay_out(rows, min(most, _round_up(length + _FIRST_ROOM)))
            self._allocate(rows)
        elif rows > self._cache.rows or length > self._cache.length:
            new_length = min(most, max(_round_up(length), 2 * self._cache.length)) if length > self._cache.length else 0
            new_rows = max(rows, 2 * self._cache.rows) if rows > self._cache.rows else self._cache.rows
            self._cache.grow(new_rows, max(new_length, self._cache.length), self.count, self.longest)
            self._allocate(new_rows)
        else:
            return
        self.version += 1

    def lengthen(self, tokens: int) -> None:
        """Note that every row has `tokens` more in its cache."""
        self.lengths[: self.count] += np.int32(tokens)
        self.longest += tokens

    def keep(self, order: IntArray) -> None:
        """Make row i what row `order[i]` was."""
        count = len(order)
        if count > self.capacity:
            self.make_room(count, self.longest)
        if count > self._cross.rows and self._cross.specs:
            self._cross.grow(self.capacity, self._cross.length, self.count, self._cross.length)
        self._cache.keep(order, self.longest)
        self._cross.keep(order, int(self._source_lengths[: self.count].max(initial=0)))
        self.lengths[:count] = self.lengths[order]
        self._source_lengths[:count] = self._source_lengths[order]
        self.count = count
        self.longest = int(self.lengths[:count].max(initial=0))
        self.version += 1

    def reset(self) -> None:
        """Drop every row and keep the memory for the next ones."""
        self.count = self.longest = 0
        self.version += 1

    def call(
        self,
        rows: slice,
        ids: Sequence[Sequence[int]],
        logit_rows: IntArray,
        scores: Scores,
        prefix_lengths: Sequence[int] | None = None,
    ) -> None:
        """Append `ids` to the caches of `rows` in one call, ragged, padded on the right.

        Args:
            rows: A slice of rows; `make_room` must have made room.
            ids: The new tokens of each row, at least one.
            logit_rows: [N] the positions to score, as b * T + t into the padded block [B, T].
            scores: Where the N scores go.
            prefix_lengths: Of a prefix-LM: tokens that may see each other, for rows that begin with this call.
        """
        new = np.array([len(row) for row in ids], np.int32)
        block = padded(ids, int(new.max()))
        past = self.lengths[rows]
        after = past + new
        inputs: dict[str, Array] = {
            "input_ids": block,
            "last_positions": after - np.int32(1),
            "new_lengths": new,
            "total_length": np.array(after.max(), np.int32),
            "logit_rows": logit_rows,
            "prefix_lengths": np.array(prefix_lengths or [0] * len(ids), np.int32),
        }
        self.run(self.bind(inputs, rows, scores), rows)
        self.lengths[rows] = after
        self.longest = max(self.longest, int(after.max()))

    def bind(self, inputs: dict[str, Array], rows: slice, scores: Scores) -> Binding:
        """Bind a call over `rows`; `inputs` gains what depends on the rows, and must outlive the binding."""
        top_k = 0 if scores.top_ids is None else scores.top_ids.shape[1]
        inputs["source_lengths"] = self._source_lengths[rows]
        inputs["top_k"] = np.array(top_k, np.int64)
        outputs: dict[str, Array] = {"logits": scores.logits}
        if scores.top_ids is not None and scores.top_log_probs is not None:
            outputs |= {"top_ids": scores.top_ids, "top_log_probs": scores.top_log_probs}
        cache = {name: (array[rows], array[rows]) for name, array in self._cache.arrays.items()}
        cache |= {name: (cache[name][0], array[rows]) for name, array in self._states.arrays.items()}
        cross = {name: array[rows] for name, array in self._cross.arrays.items()}
        return self.graphs.decoder_binding(inputs, outputs, cache, cross)

    def run(self, binding: Binding, rows: slice) -> None:
        """Run a call that `bind` bound over `rows`."""
        self.graphs.decode(binding)
        for name, array in self._states.arrays.items():
            self._cache.arrays[name][rows] = array[rows]

    def _encode(self, first: int, sources: Sequence[Sequence[int]]) -> None:
        """Fill the cross tensors of the rows from `first` on."""
        lengths = np.array([len(source) for source in sources], np.int32)
        live = int(self._source_lengths[:first].max(initial=0))
        # A width that is no multiple of 4 takes another path through onnxruntime's kernel, and the last bits of a row
        # would depend on its neighbours' lengths.
        needed = _round_up(max(live, int(lengths.max())), _SOURCE_GRANULE)
        if first == 0:
            self._cross.lay_out(self.capacity, needed)
        elif self._cross.rows < self.capacity or not needed <= self._cross.length <= 2 * needed:
            # Attention over padding costs time as well: after long sources have left, the buffers shrink again.
            self._cross.grow(self.capacity, needed, first, live)
        for start, stop in groups(lengths.tolist(), CALL_TOKENS):
            self._encode_group(slice(first + start, first + stop), sources[start:stop], lengths[start:stop])
        self._source_lengths[first : first + len(sources)] = lengths

    def _encode_group(self, rows: slice, sources: Sequence[Sequence[int]], lengths: NDArray[np.int32]) -> None:
        length = int(lengths.max())
        count = len(sources)
        into: dict[str, Array] = {}
        for spec in self._cross.specs:
            array = self._cross.arrays[spec.name][rows]
            fits = array.shape == spec.shape(count, length)
            into[spec.name] = array if fits else np.empty(spec.shape(count, length), spec.dtype)
        self.graphs.encode(padded(sources, length), lengths, into)
        for spec in self._cross.specs:
            array = self._cross.arrays[spec.name][rows]
            if spec.growing_axis is not None and array.shape != into[spec.name].shape:
                array[(slice(None),) * spec.growing_axis + (slice(length),)] = into[spec.name]

    def _allocate(self, rows: int) -> None:
        self._states.lay_out(rows, 0)
        if rows > len(self.lengths):
            self.lengths = np.concatenate([self.lengths, np.zeros(rows - len(self.lengths), np.int32)])
            more = np.zeros(rows - len(self._source_lengths), np.int32)
            self._source_lengths = np.concatenate([self._source_lengths, more])


def new_scores(logits: FloatArray, top_k: int) -> Scores:
    """Scores over the memory `logits` [N, V], with room for the `top_k` best."""
    if not top_k:
        return Scores(logits)
    return Scores(logits, np.zeros((len(logits), top_k), np.int64), np.zeros((len(logits), top_k), np.float32))


def padded(ids: Sequence[Sequence[int]], length: int) -> IntArray:
    """[B, length] the rows of `ids`, zeros behind them."""
    block = np.zeros((len(ids), length), np.int64)
    for row, values in zip(block, ids, strict=True):
        row[: len(values)] = values
    return block


def groups(lengths: Sequence[int], most_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut consecutive rows into calls: rows of nearly equal length, at most `most_tokens` places (or one row)."""
    start, total = 0, 0
    for i, length in enumerate(lengths):
        longest = max(length, max(lengths[start:i], default=0))
        places = longest * (i - start + 1)
        # A little padding is cheaper than another call: a call of a small model costs as much as some ten tokens.
        if i > start and (places > most_tokens or places - total - length > max(_GRANULE, (total + length) // 10)):
            yield start, i
            start, total = i, 0
        total += length
    if lengths:
        yield start, len(lengths)


def _round_up(length: int, granule: int = _GRANULE) -> int:
    return -(-length // granule) * granule
