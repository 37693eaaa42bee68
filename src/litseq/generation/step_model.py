"""What the loop asks of a model: rows of sequences that advance one token at a time.

The loop knows ids only. onnxruntime (`litseq.runtime`) and torch (the slow reference in `litseq.models`) implement
`StepModel`; a test may implement it in ten lines of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Where a row starts: the decoder's first tokens, and for an encoder-decoder the source."""

    ids: Sequence[int]
    source: Sequence[int] | None = None

    @property
    def length(self) -> int:
        """Tokens to read before the first one is generated; rows of similar length are read together."""
        return len(self.ids) + len(self.source or ())


@dataclass(slots=True)
class Scores:
    """What the model says about the next token of N rows.

    The arrays belong to the caller until its next call of the model, and may be changed in place.
    """

    logits: FloatArray
    """[N, V], unnormalised."""
    top_ids: IntArray | None = None
    """[N, k] the k likeliest tokens, best first; given when k were asked for and the model finds them itself."""
    top_log_probs: FloatArray | None = None
    """[N, k] their log-probabilities over the whole vocabulary."""


class StepModel(Protocol):
    """Rows of sequences with their caches. Row i of every argument and result is row i of the model."""

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits."""

    @property
    def max_length(self) -> int:
        """Tokens that a row may hold, prompt included."""

    @property
    def rows(self) -> int:
        """Rows held now."""

    def admit(self, prompts: Sequence[Prompt], top_k: int = 0) -> Scores:
        """Append one row a prompt, read the prompts, and score the first token of the new rows only."""

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append `tokens` [rows], one to each row, and score what follows."""

    def keep(self, rows: IntArray) -> None:
        """Make row i what row `rows[i]` was. Rows may be dropped, reordered and repeated (beams)."""
