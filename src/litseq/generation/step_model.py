"""What the loop asks of a model: rows of sequences that advance one token at a time.

The loop knows ids only. onnxruntime (`litseq.runtime`) and torch (the slow reference in `litseq.models`) implement
`StepModel`; a test may implement it in ten lines of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where a row starts: the decoder's first tokens, and for an encoder-decoder the source."""

    ids: Sequence[int]
    source: Sequence[int] | None = None
    forced: int = 0
    """How many of `ids`, at their end, are the forced beginning of the output; a prefix-LM's prefix ends before them."""

    @property
    def length(self) -> int:
        """Tokens to read before the first one is generated; rows of similar length are read together."""
        return len(self.ids) + len(self.source or ())


@dataclass(slots=True)
class Scores:
    """What the model says about the next token at N places.

    The arrays belong to the caller until its next call of the model, and may be changed in place.
    """

    logits: FloatArray
    """[N, V], unnormalised."""
    top_ids: IntArray | None = None
    """[N, k] the k likeliest tokens, best first; given when k were asked for and the model finds them itself."""
    top_log_probs: FloatArray | None = None
    """[N, k] their log-probabilities over the whole vocabulary."""

    def empty_like(self, count: int) -> Scores:
        """Room for the scores of `count` other places."""
        shapes = (
            (array, (count, *array.shape[1:]))
            for array in (self.logits, self.top_ids, self.top_log_probs)
            if array is not None
        )
        return Scores(*(np.empty(shape, array.dtype) for array, shape in shapes))

    def put(self, places: IntArray, found: Scores) -> None:
        """Take over the first scores of `found` as those of `places`."""
        self.logits[places] = found.logits[: len(places)]
        if self.top_ids is not None and found.top_ids is not None:
            self.top_ids[places] = found.top_ids[: len(places)]
        if self.top_log_probs is not None and found.top_log_probs is not None:
            self.top_log_probs[places] = found.top_log_probs[: len(places)]


class Saved(Protocol):
    """A copy of the beginning of a row, as `StepModel.save` gives it."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""


class StepModel(Protocol):
    """Rows of sequences with their caches. Row i of every argument and result is row i of the model.

    Rows that generate stand in front; rows whose prompts are still being read stand behind them.
    """

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits."""

    @property
    def max_length(self) -> int:
        """Tokens that a row may hold, prompt included."""

    @property
    def rows(self) -> int:
        """Rows held now."""

    @property
    def lengths(self) -> NDArray[np.integer[Any]]:
        """[rows] tokens that each row holds."""

    @property
    def reads_in_chunks(self) -> bool:
        """Whether a prompt may be read in several calls; otherwise the first call must hold all of it."""

    @property
    def can_rewind(self) -> bool:
        """Whether rows can be shortened and their beginnings copied; a recurrent state cannot."""

    def admit(self, prompts: Sequence[Prompt]) -> None:
        """Append one row a prompt, nothing of `prompt.ids` read yet, and encode the sources."""

    def read(self, first: int, ids: Sequence[Sequence[int]], top_k: int = 0, *, every: bool = False) -> Scores:
        """Append `ids[i]` to row `first + i`, each at least one token.

        Returns:
            The scores behind the last token of each row; with `every`, behind each of the tokens, row after row.
        """

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append one token to each of the first `len(tokens)` rows, and score what follows."""

    def keep(self, rows: IntArray) -> None:
        """Make row i what row `rows[i]` was. Rows may be dropped, reordered and repeated (beams)."""

    def rewind(self, lengths: IntArray) -> None:
        """Shorten the first rows to `lengths` tokens each, as if the rest had not been read."""

    def copy(self, row: int, source: int, length: int) -> None:
        """Let the empty `row` begin with the first `length` tokens of the row `source`."""

    def save(self, row: int, length: int) -> Saved:
        """Copy the first `length` tokens of a row out of the model."""

    def load(self, row: int, saved: Any, length: int) -> None:
        """Let the empty `row` begin with the first `length` tokens of what `save` gave."""
