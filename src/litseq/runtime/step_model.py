"""`OrtStepModel`: a bundle's graphs as a step model for the loop of `litseq.generation`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation import FloatArray, IntArray, Prompt, Scores
from litseq.runtime.graphs import Array, Graphs
from litseq.runtime.rows import CALL_TOKENS, Rows, groups, new_scores
from litseq.runtime.sessions import Binding


class OrtStepModel:
    """A `StepModel` over onnxruntime.

    Caches are written in place. Prompts of similar length are read together, directly into their rows of the caches. A
    step is one call over all rows; it is bound once and run until the set of rows changes or a cache grows.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._rows = Rows(graphs)
        self._logits: FloatArray = np.zeros((0, self.vocab_size), np.float32)
        self._bindings: dict[int, _Step] = {}
        self._bound_version = -1

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
    def nbytes(self) -> int:
        """Bytes of the caches, and of the logits."""
        return self._rows.nbytes + self._logits.nbytes

    def admit(self, prompts: Sequence[Prompt], top_k: int = 0) -> Scores:
        """Append rows and read their prompts; see `StepModel`."""
        lengths = [len(prompt.ids) for prompt in prompts]
        sources = [prompt.source or () for prompt in prompts] if self._graphs.encoder is not None else None
        rows = self._rows.append(lengths, sources)
        if rows.start == 0 and max(lengths) == 1 and self._graphs.manifest.prompt_pass == "chunks":
            # The start of an encoder-decoder has the shape of a step, whose binding then serves from the first token on.
            return self.advance(np.array([prompt.ids[0] for prompt in prompts], np.int64), top_k)
        scores = self._scores(rows.start, rows.stop, top_k)
        for start, stop in groups(lengths, CALL_TOKENS):
            part = slice(start, stop)
            self._read([prompt.ids for prompt in prompts[part]], rows.start + start, _part(scores, part))
        return scores

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append one token to every row; see `StepModel`."""
        rows = self._rows
        rows.make_room(rows.count, rows.longest + 1)
        if rows.version != self._bound_version:
            self._bindings.clear()
            self._bound_version = rows.version
        step = self._bindings.get(top_k)
        if step is None:
            step = self._bindings[top_k] = _Step(rows, self._scores(0, rows.count, top_k))
        step.run(tokens)
        return step.scores

    def keep(self, rows: IntArray) -> None:
        """Drop, reorder or repeat rows; see `StepModel`."""
        self._rows.keep(rows)

    def reset(self) -> None:
        """Drop every row and keep the memory for the next ones."""
        self._rows.reset()

    def _read(self, ids: Sequence[Sequence[int]], first: int, scores: Scores) -> None:
        """The prompt pass of rows from `first` on."""
        rows = slice(first, first + len(ids))
        longest = max(len(row) for row in ids)
        if self._graphs.manifest.prompt_pass == "chunks" and longest > CALL_TOKENS:
            # Only a row on its own is longer than a call may be.
            for start in range(0, longest - CALL_TOKENS, CALL_TOKENS):
                self._rows.call(rows, [ids[0][start : start + CALL_TOKENS]], np.zeros(1, np.int64), scores)
            ids = [ids[0][start + CALL_TOKENS :]]
            longest = len(ids[0])
        last = np.array([i * longest + len(row) - 1 for i, row in enumerate(ids)], np.int64)
        self._rows.call(rows, ids, last, scores, [len(row) for row in ids])

    def _scores(self, first: int, last: int, top_k: int) -> Scores:
        if len(self._logits) < last:
            self._logits = np.zeros((max(last, self._rows.capacity), self.vocab_size), np.float32)
        return new_scores(self._logits[first:last], top_k if self._graphs.has_top_k else 0)


class _Step:
    """One bound decode step over all rows: T = 1, every input in place."""

    def __init__(self, rows: Rows, scores: Scores) -> None:
        count = rows.count
        self.scores = scores
        self._rows = rows
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
        self._every = slice(0, count)
        self._binding: Binding = rows.bind(self._inputs, self._every, scores)

    def run(self, tokens: IntArray) -> None:
        """Append `tokens`, one a row."""
        self._ids[:, 0] = tokens
        self._total[()] = self._rows.longest + 1
        self._rows.run(self._binding, self._every)
        self._rows.lengthen(1)


def _part(scores: Scores, part: slice) -> Scores:
    if scores.top_ids is None or scores.top_log_probs is None:
        return Scores(scores.logits[part])
    return Scores(scores.logits[part], scores.top_ids[part], scores.top_log_probs[part])
