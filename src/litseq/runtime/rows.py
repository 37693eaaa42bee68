"""Rows of sequences on a bundle's graphs: their caches, their lengths, and calls over any slice of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litseq.generation import FloatArray, IntArray, Prompt, Scores
from litseq.generation.packing import CALL_TOKENS, groups
from litseq.runtime.graphs import Array, Graphs
from litseq.runtime.row_store import RowStore
from litseq.runtime.sessions import Binding

_FIRST_ROOM = 32  # places for new tokens in a fresh cache; it doubles from there
_GRANULE = 16
_SOURCE_GRANULE = 8


@dataclass(frozen=True, slots=True)
class SavedRow:
    """The beginning of a row, copied out of the caches."""

    arrays: dict[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of the copy."""
        return sum(array.nbytes for array in self.arrays.values())


class Rows:
    """The caches of rows that run together; row i of every buffer belongs to sequence i.

    The prompt pass and scoring use `call`; the decode step binds the buffers itself and calls `lengthen`.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self.count = 0
        self.version = 0
        """Changes whenever memory moves or is laid out anew, so that whoever is bound to it can tell."""
        self.max_tokens: int | None = None
        """Room is made ahead of need as long as rows times places, those of sources included, stay within it."""
        self._cache = RowStore(graphs.cache_specs)
        self._cross = RowStore(graphs.cross_specs)
        self._states = RowStore([spec for spec in graphs.cache_specs if spec.growing_axis is None])
        """Where states of fixed size are written: a graph may read the old state after it wrote the new one."""
        self.lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._source_lengths: NDArray[np.int32] = np.zeros(0, np.int32)
        self._sources: IntArray = np.zeros(0, np.int64)
        """Which source a row attends to: rows of one number hold equal cross tensors (beams)."""
        self._visible: IntArray = np.zeros(0, np.int64)
        """Of a prefix-LM: tokens of the prompt that see each other."""
        self._encoded = 0
        self._source_room = 0
        self._prefix_apart = graphs.manifest.prompt_pass == "whole"

    @property
    def capacity(self) -> int:
        """Rows that fit without growing."""
        return self._cache.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the caches."""
        return self._cache.nbytes + self._cross.nbytes + self._states.nbytes

    @property
    def longest(self) -> int:
        """Tokens in the cache of the longest row."""
        return int(self.lengths[: self.count].max(initial=0))

    @property
    def has_states(self) -> bool:
        """Whether some cache is a state of fixed size, which cannot be shortened."""
        return bool(self._states.specs)

    def append(self, prompts: Sequence[Prompt]) -> slice:
        """New rows, empty but with room for their prompts, and with their sources encoded."""
        first, last = self.count, self.count + len(prompts)
        if self.graphs.encoder is not None:
            self._source_room = self._room_for([len(prompt.source or ()) for prompt in prompts])
        self.make_room(last, max(len(prompt.ids) for prompt in prompts))
        self._cache.clear_states(first, last)
        if self.graphs.encoder is not None:
            self._encode(first, [prompt.source or () for prompt in prompts])
        self.lengths[first:last] = 0
        self._visible[first:last] = [len(prompt.ids) - prompt.forced for prompt in prompts]
        self.count = last
        return slice(first, last)

    def make_room(self, rows: int, length: int) -> None:
        """Make the caches fit `rows` rows of `length` tokens; both double, so that growing is rare.

        Where one grows, the other shrinks to about twice what is needed: many short rows and few long ones in turn would
        else take the memory of many long ones.
        """
        if self.count == 0:
            rows, room = self._within_bound(rows, length, rows, _round_up(length + _FIRST_ROOM))
            old = self._cache.rows, self._cache.length
            if (
                rows <= old[0] <= 2 * rows
                and room <= old[1] <= 2 * room
                and self._within_bound(rows, length, *old) == old
            ):
                return  # the layout of the rows before serves again, and what is bound to it stays bound
            self._cache.lay_out(rows, room)
        elif rows > self._cache.rows or length > self._cache.length:
            old_rows, old_length = self._cache.rows, self._cache.length
            enough = _round_up(2 * max(length, self.longest) + _FIRST_ROOM)
            new_length = max(_round_up(length), 2 * old_length) if length > old_length else min(old_length, enough)
            new_rows = max(rows, 2 * old_rows) if rows > old_rows else min(old_rows, 2 * rows)
            new_rows, new_length = self._within_bound(rows, max(length, self.longest), new_rows, new_length)
            self._cache.grow(new_rows, new_length, self.count, self.longest)
        else:
            return
        self._allocate(self._cache.rows)
        self.version += 1

    def _within_bound(self, rows: int, length: int, wanted_rows: int, wanted_length: int) -> tuple[int, int]:
        """The layout that is wanted, or as much of it as the bounds allow, but room for `rows` rows of `length` tokens."""
        most = max(length, self.graphs.manifest.model.max_seq_len)
        if self.max_tokens is not None:
            left = max(0, self.max_tokens - max(rows * self._source_room, self._cross.rows * self._cross.length))
            wanted_length = max(_round_up(length), min(wanted_length, left // rows // _GRANULE * _GRANULE))
            wanted_rows = max(rows, min(wanted_rows, left // wanted_length))
        return wanted_rows, min(most, wanted_length)

    def lengthen(self, rows: int) -> None:
        """Note that the first `rows` rows have one token more in their caches."""
        if rows == 1:  # behind a step numpy's ufuncs lie in no cache and take 5 us, a setting takes one
            self.lengths[0] = self.lengths.item(0) + 1
        else:
            self.lengths[:rows] += np.int32(1)

    def keep(self, order: IntArray) -> None:
        """Make row i what row `order[i]` was."""
        count = len(order)
        if count > self.capacity:
            self.make_room(count, self.longest)
        if count > self._cross.rows and self._cross.specs:
            self._grow_cross(count, self._cross.length, self.count, self._cross.length)
        changed = np.flatnonzero(order != np.arange(count))
        if len(changed):
            self._cache.keep(order, changed, self.lengths)
            if self._cross.specs:
                other = changed[self._sources[changed] != self._sources[order[changed]]]
                self._cross.keep(order, other, self._source_lengths)
            for values in (self.lengths, self._source_lengths, self._sources, self._visible):
                values[:count] = values[order]
        self.count = count

    def rewind(self, lengths: IntArray) -> None:
        """Forget what the first rows hold beyond `lengths`."""
        self.lengths[: len(lengths)] = lengths

    def copy(self, row: int, source: int, length: int) -> None:
        """Let an empty row begin as the row `source` does."""
        self._cache.copy_in(row, {name: array[source] for name, array in self._cache.arrays.items()}, length)
        self.lengths[row] = length

    def save(self, row: int, length: int) -> SavedRow:
        """Copy the beginning of a row."""
        return SavedRow(self._cache.copy_out(row, length))

    def load(self, row: int, saved: SavedRow, length: int) -> None:
        """Let an empty row begin with what was saved."""
        self._cache.copy_in(row, saved.arrays, length)
        self.lengths[row] = length

    def reset(self) -> None:
        """Drop every row and keep the memory for the next ones."""
        self.count = 0

    def call(self, rows: slice, ids: Sequence[Sequence[int]], logit_rows: IntArray, scores: Scores) -> None:
        """Append `ids` to the caches of `rows` in one call, ragged, padded on the right.

        Args:
            rows: A slice of rows; `make_room` must have made room.
            ids: The new tokens of each row, at least one.
            logit_rows: [N] the positions to score, as b * T + t into the padded block [B, T].
            scores: Where the N scores go.
        """
        new = np.array([len(row) for row in ids], np.int32)
        past = self.lengths[rows]
        # The visible prefix belongs to the call that begins a row.
        visible = np.where(past == 0, np.minimum(self._visible[rows], new), 0).astype(np.int32)
        if self._prefix_apart and visible.any() and (visible < new).any():
            self._call_in_two(rows, ids, visible.astype(np.int64), logit_rows, scores)
            return
        block = padded(ids, int(new.max()))
        after = past + new
        inputs: dict[str, Array] = {
            "input_ids": block,
            "last_positions": after - np.int32(1),
            "new_lengths": new,
            "total_length": np.array(after.max(), np.int32),
            "logit_rows": logit_rows,
            "prefix_lengths": visible,
        }
        self.run(self.bind(inputs, rows, scores), rows)
        self.lengths[rows] = after

    def _call_in_two(
        self,
        rows: slice,
        ids: Sequence[Sequence[int]],
        visible: IntArray,
        logit_rows: IntArray,
        scores: Scores,
    ) -> None:
        """`call` where tokens follow a prefix: in a call with a prefix everything sees everything, so it has its own."""
        lengths = np.array([len(row) for row in ids])
        which, where = np.divmod(logit_rows, int(lengths.max()))  # row and place of each position to score
        for begin, end in ((0 * visible, visible), (visible, lengths)):
            part = [row[b:e] for row, b, e in zip(ids, begin, end, strict=True)]
            # Padding is written behind the longest row, and must fit there.
            needed = int(self.lengths[rows].max()) + max(map(len, part))
            fits = needed <= min(self._cache.length, self.graphs.manifest.model.max_seq_len)
            together = fits and all(map(len, part))
            for first, last in [(0, len(ids))] if together else [(i, i + 1) for i, row in enumerate(part) if len(row)]:
                scored = np.flatnonzero(
                    (which >= first) & (which < last) & (where >= begin[which]) & (where < end[which])
                )
                width = max(map(len, part[first:last]))
                places = (which[scored] - first) * width + where[scored] - begin[which[scored]]
                found = scores.empty_like(max(1, len(scored)))  # a call scores one position at least
                self.call(
                    slice(rows.start + first, rows.start + last),
                    part[first:last],
                    places if len(places) else np.zeros(1, np.int64),
                    found,
                )
                scores.put(scored, found)

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
        needed = self._source_room
        last = first + len(sources)
        fits = self._cross.rows >= last and needed <= self._cross.length <= needed + _GRANULE
        if first == 0 and not fits:
            self._cross.lay_out(self.capacity, needed)
            self.version += 1
        elif self._cross.rows < last or not needed <= self._cross.length <= 2 * needed:
            # Attention over padding costs time as well: after long sources have left, the buffers shrink again.
            self._grow_cross(last, needed, first, live)
        for start, stop in groups(lengths.tolist(), CALL_TOKENS):
            self._encode_group(slice(first + start, first + stop), sources[start:stop], lengths[start:stop])
        self._source_lengths[first : first + len(sources)] = lengths
        self._sources[first : first + len(sources)] = np.arange(self._encoded, self._encoded + len(sources))
        self._encoded += len(sources)

    def _room_for(self, lengths: Sequence[int]) -> int:
        """Places for sources, of new rows with these lengths and of those that are held."""
        # A width that is no multiple of 4 takes another path through onnxruntime's kernel, and the last bits of a row
        # would depend on its neighbours' lengths.
        return _round_up(max(*lengths, int(self._source_lengths[: self.count].max(initial=0))), _SOURCE_GRANULE)

    def _grow_cross(self, rows: int, length: int, used: int, used_length: int) -> None:
        """Move the cross tensors of the first `used` rows to where `rows` of them have room."""
        wanted = min(self.capacity, 2 * rows)
        if self.max_tokens is not None:
            left = self.max_tokens - self.capacity * self._cache.length
            wanted = max(rows, min(wanted, left // length))
        self._cross.grow(wanted, length, used, used_length)
        self._sources[used:] = -1  # what stood behind them, copies of these rows perhaps, is not moved
        self.version += 1

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
        more = rows - len(self.lengths)
        if more > 0:
            self.lengths = np.concatenate([self.lengths, np.zeros(more, np.int32)])
            self._source_lengths = np.concatenate([self._source_lengths, np.zeros(more, np.int32)])
            self._sources = np.concatenate([self._sources, np.full(more, -1)])
            self._visible = np.concatenate([self._visible, np.zeros(more, np.int64)])


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


def _round_up(length: int, granule: int = _GRANULE) -> int:
    return -(-length // granule) * granule
