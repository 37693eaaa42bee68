"""Choose the next token of every row, each by its own options."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation import processors
from litseq.generation.beams import best_tokens
from litseq.generation.row import Row
from litseq.generation.sampling import sample
from litseq.generation.step_model import FloatArray, IntArray, Scores

NOTHING = -1
"""In place of a token, where all are forbidden."""


class Chooser:
    """How the rows now running are chosen for; made anew whenever the set of rows changes."""

    def __init__(self, rows: Sequence[Row], end_tokens: Sequence[int], vocab_size: int) -> None:
        self._rows = list(rows)
        self._end_tokens = [token for token in end_tokens if token < vocab_size]
        options = [row.options for row in rows]
        self._greedy = not any(o.sampling or o.processes_logits for o in options)
        self._logprobs = [i for i, o in enumerate(options) if o.wants_logprobs]
        self._alternatives = min(
            vocab_size, max((max(1, o.top_logprobs) for o in options if o.wants_logprobs), default=0)
        )

    @property
    def top_k(self) -> int:
        """How many best tokens the model is asked for: none when the logits are enough."""
        return self._alternatives if self._greedy else 0

    def choose(self, scores: Scores) -> IntArray:
        """[n] the next tokens, `NOTHING` where all are forbidden; log-probabilities, where wanted, are noted in the rows."""
        if self._logprobs:
            return self._choose_with_logprobs(scores)
        return self._choose(scores)

    def _choose(self, scores: Scores) -> IntArray:
        if self._greedy:
            best = scores.top_ids
            tokens: IntArray = scores.logits.argmax(-1) if best is None else best[:, 0]
            return tokens
        chosen = (self._choose_one(row, values) for row, values in zip(self._rows, scores.logits, strict=True))
        return np.fromiter(chosen, np.int64, len(self._rows))

    def _choose_one(self, row: Row, logits: FloatArray) -> int:
        """The token of one row; `logits` [V] may be changed."""
        options = row.options
        if options.processes_logits:
            row.job.process(logits, row.context(), len(row.tokens), self._end_tokens)
            if logits.max() == processors.NEVER:
                return NOTHING
        return sample(logits, options, row.uniform()) if options.sampling else int(logits.argmax())

    def _choose_with_logprobs(self, scores: Scores) -> IntArray:
        top_ids, top_log_probs = scores.top_ids, scores.top_log_probs
        if self._greedy and top_ids is not None and top_log_probs is not None:
            tokens, chosen = top_ids[:, 0], top_log_probs[:, 0]
        else:
            raw = scores.logits.copy()  # the choice may change the logits, and log-probabilities are the model's own
            normalizer = processors.log_normalizer(raw)
            tokens = self._choose(scores)
            chosen = raw[np.arange(len(raw)), tokens] - normalizer
            top_ids = best_tokens(raw, self._alternatives)
            top_log_probs = np.take_along_axis(raw, top_ids, -1) - normalizer[:, None]
        for i in self._logprobs:
            row = self._rows[i]
            if tokens[i] == NOTHING:
                continue
            row.log_probs.append(float(chosen[i]))
            if k := row.options.top_logprobs:
                pairs = zip(top_ids[i, :k].tolist(), top_log_probs[i, :k].tolist(), strict=True)
                row.alternatives.append(tuple(pairs))
        return tokens
