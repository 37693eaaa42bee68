"""`OrtStepModel`: a bundle's graphs as a step model for the loop of `litseq.generation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from litseq.generation import FloatArray, IntArray, Prompt, Scores
from litseq.runtime.graphs import Array, Graphs
from litseq.runtime.rows import Rows, SavedRow, new_scores
from litseq.runtime.sessions import Binding

_KEPT_STEPS = 128
"""Bound steps that are kept, one for each number of rows and of best tokens asked for: enough for 64 rows, greedy and with
beams. With callers who choose `top_logprobs` there is no end of them."""


class OrtStepModel:
    """A `StepModel` over onnxruntime.

    Caches are written in place. A step is one call over the rows that generate; it is bound once for each number of
    rows, and the bindings serve until the caches' memory moves.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._rows = Rows(graphs)
        self._logits: FloatArray = np.zeros((0, self.vocab_size), np.float32)
        self._steps: dict[tuple[int, int], _Step] = {}
        self._bound_version = -1
        self.reads_in_chunks = graphs.manifest.prompt_pass == "chunks"
        """A prefix-LM sees its prompt whole; every other model may read it in pieces."""

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._graphs.manifest.model.vocab_size

    @property
    def max_length(self) -> int:
        """Tokens that a row may hold."""
        return self._graphs.manifest.model.max_seq_len

    @property
    def rows(self) -> int:
        """Rows held now."""
        return self._rows.count

    @property
    def lengths(self) -> NDArray[np.int32]:
        """[rows] tokens that each row holds."""
        return self._rows.lengths[: self._rows.count]

    @property
    def can_rewind(self) -> bool:
        """Whether every cache grows with the sequence."""
        return not self._rows.has_states

    def bound(self, max_tokens: int | None) -> None:
        """Let the caches grow ahead of need only within so many tokens; see `litseq.generation.Engine`."""
        self._rows.max_tokens = max_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the caches, and of the logits."""
        return self._rows.nbytes + self._logits.nbytes

    def admit(self, prompts: Sequence[Prompt]) -> None:
        """Append empty rows and encode their sources; see `StepModel`."""
        self._rows.append(prompts)

    def read(self, first: int, ids: Sequence[Sequence[int]], top_k: int = 0, *, every: bool = False) -> Scores:
        """Append tokens to some rows; see `StepModel`."""
        rows = slice(first, first + len(ids))
        lengths = np.array([len(row) for row in ids])
        longest = int(lengths.max())
        # The padding of a short row is written too, behind its own tokens: the block must fit behind the longest row.
        self._rows.make_room(self._rows.count, int(self._rows.lengths[rows].max()) + longest)
        begins = np.arange(len(ids)) * longest
        if every:
            places = np.concatenate([begin + np.arange(n) for begin, n in zip(begins, lengths, strict=True)])
        else:
            places = begins + lengths - 1
        scores = self._scores(len(places), top_k)
        self._rows.call(rows, ids, places, scores)
        return scores

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append one token to each of the first rows; see `StepModel`."""
        rows, count = self._rows, len(tokens)
        longest = rows.lengths.item(0) if count == 1 else int(rows.lengths[:count].max())
        rows.make_room(rows.count, longest + 1)
        self._forget_moved()
        step = self._steps.get((count, top_k))
        if step is None:
            if len(self._steps) >= _KEPT_STEPS:
                del self._steps[next(iter(self._steps))]  # the one bound first
            step = self._steps[count, top_k] = _Step(rows, count, self._scores(count, top_k))
        step.run(tokens, longest + 1)
        return step.scores

    def keep(self, rows: IntArray) -> None:
        """Drop, reorder or repeat rows; see `StepModel`."""
        self._rows.keep(rows)

    def rewind(self, lengths: IntArray) -> None:
        """Shorten the first rows; see `StepModel`."""
        self._rows.rewind(lengths)

    def copy(self, row: int, source: int, length: int) -> None:
        """Begin a row as another does; see `StepModel`."""
        self._rows.copy(row, source, length)

    def save(self, row: int, length: int) -> SavedRow:
        """Copy the beginning of a row; see `StepModel`."""
        return self._rows.save(row, length)

    def load(self, row: int, saved: SavedRow, length: int) -> None:
        """Begin a row with what was saved; see `StepModel`."""
        self._rows.make_room(self._rows.count, length)
        self._rows.load(row, saved, length)

    def reset(self) -> None:
        """Drop every row and keep the memory for the next ones."""
        self._rows.reset()

    def _forget_moved(self) -> None:
        if self._rows.version != self._bound_version:
            self._steps.clear()
            self._bound_version = self._rows.version

    def _scores(self, count: int, top_k: int) -> Scores:
        if len(self._logits) < count:
            self._steps.clear()  # they are bound to the memory that is let go here
            self._logits = np.zeros((max(count, self._rows.capacity), self.vocab_size), np.float32)
        return new_scores(self._logits[:count], top_k if self._graphs.has_top_k else 0)


class _Step:
    """One bound decode step over the first `count` rows: T = 1, every input in place."""

    def __init__(self, rows: Rows, count: int, scores: Scores) -> None:
        self.scores = scores
        self._rows = rows
        self._count = count
        self._ids = np.zeros((count, 1), np.int64)
        self._total = np.zeros((), np.int32)
        self._inputs: dict[str, Array] = {
            "input_ids": self._ids,
            # The new token stands behind the cached ones: its position is the row's length before the step.
            "last_positions": rows.lengths[:count],
            "new_lengths": np.ones(count, np.int32),
            "total_length": self._total,
            "logit_rows": np.arange(count, dtype=np.int64),
            "prefix_lengths": np.zeros(count, np.int32),
        }
        self._part = slice(0, count)
        self._binding: Binding = rows.bind(self._inputs, self._part, scores)

    def run(self, tokens: IntArray, total: int) -> None:
        """Append `tokens`, one a row; the longest row then has `total`."""
        self._ids[:, 0] = tokens
        self._total[()] = total
        self._rows.run(self._binding, self._part)
        self._rows.lengthen(self._count)
