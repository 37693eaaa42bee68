"""Choose the next token of every row, each by its own options."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation import processors
from litseq.generation.options import GenerationOptions
from litseq.generation.row import Row
from litseq.generation.step_model import FloatArray, IntArray, Scores


class Chooser:
    """How the rows now running are chosen for; made anew whenever the set of rows changes."""

    def __init__(self, rows: Sequence[Row], end_tokens: Sequence[int], vocab_size: int) -> None:
        self._rows = list(rows)
        self._end_tokens = [token for token in end_tokens if token < vocab_size]
        self._groups = _group(rows)
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
        """[n] the next tokens; log-probabilities, where wanted, are noted in the rows."""
        if self._logprobs:
            return self._choose_with_logprobs(scores)
        return self._choose(scores)

    def _choose(self, scores: Scores) -> IntArray:
        if self._greedy:
            best = scores.top_ids
            tokens: IntArray = scores.logits.argmax(-1) if best is None else best[:, 0]
            return tokens
        tokens = np.empty(len(self._rows), np.int64)
        for options, indices in self._groups:
            alone = len(indices) == len(self._rows)
            logits = scores.logits if alone else scores.logits[indices]
            tokens[indices] = self._choose_alike(logits, options, [self._rows[i] for i in indices])
        return tokens

    def _choose_alike(self, logits: FloatArray, options: GenerationOptions, rows: list[Row]) -> IntArray:
        """Tokens of rows that share their options; `logits` is changed."""
        if options.processes_logits:
            for row, values in zip(rows, logits, strict=True):
                if options.repetition_penalty != 1.0:
                    processors.penalize_repetition(values, row.context(), options.repetition_penalty)
                if options.no_repeat_ngram_size:
                    processors.ban_repeated_ngrams(values, row.context(), options.no_repeat_ngram_size)
                if len(row.tokens) < options.min_new_tokens:
                    processors.ban_tokens(values, self._end_tokens)
        if not options.sampling:
            best: IntArray = logits.argmax(-1)
            return best
        if options.temperature is not None and options.temperature != 1:
            processors.apply_temperature(logits, options.temperature)
        if options.top_k is not None:
            processors.keep_top_k(logits, options.top_k)
        if options.top_p is not None:
            processors.keep_top_p(logits, options.top_p)
        if options.min_p is not None:
            processors.keep_min_p(logits, options.min_p)
        return processors.sample(logits, [row.uniform() for row in rows])

    def _choose_with_logprobs(self, scores: Scores) -> IntArray:
        top_ids, top_log_probs = scores.top_ids, scores.top_log_probs
        if self._greedy and top_ids is not None and top_log_probs is not None:
            tokens, chosen = top_ids[:, 0], top_log_probs[:, 0]
        else:
            raw = scores.logits.copy()  # the choice may change the logits, and log-probabilities are the model's own
            normalizer = processors.log_normalizer(raw)
            tokens = self._choose(scores)
            chosen = raw[np.arange(len(raw)), tokens] - normalizer
            top_ids = _best(raw, self._alternatives)
            top_log_probs = np.take_along_axis(raw, top_ids, -1) - normalizer[:, None]
        for i in self._logprobs:
            row = self._rows[i]
            row.log_probs.append(float(chosen[i]))
            if k := row.options.top_logprobs:
                pairs = zip(top_ids[i, :k].tolist(), top_log_probs[i, :k].tolist(), strict=True)
                row.alternatives.append(tuple(pairs))
        return tokens


def _best(logits: FloatArray, k: int) -> IntArray:
    """[n, k] the best tokens of each row, best first."""
    if k < logits.shape[-1]:
        candidates = np.argpartition(-logits, k - 1, axis=-1)[:, :k]
    else:
        candidates = np.broadcast_to(np.arange(logits.shape[-1]), logits.shape)
    order = np.argsort(-np.take_along_axis(logits, candidates, -1), axis=-1, kind="stable")
    return np.take_along_axis(candidates, order, -1)


def _group(rows: Sequence[Row]) -> list[tuple[GenerationOptions, list[int]]]:
    groups: dict[int, tuple[GenerationOptions, list[int]]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.options), (row.options, []))[1].append(i)
    return list(groups.values())
