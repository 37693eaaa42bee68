"""Changes to logits before a token is chosen. A functional core: arrays in, arrays changed in place.

A context is the tokens of a row so far, prompt included; for an encoder-decoder those of the decoder. All agree with the
logits processors of `transformers`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation.step_model import FloatArray, IntArray

NEVER = np.float32(-np.inf)


def penalize_repetition(row: FloatArray, context: IntArray, penalty: float) -> None:
    """Divide positive and multiply negative logits of the tokens in `context` by `penalty`."""
    seen = row[context]
    row[context] = np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty))


def ban_repeated_ngrams(row: FloatArray, context: IntArray, size: int) -> None:
    """Forbid every token that would complete an n-gram of `size` that `context` already holds."""
    if len(context) < size:
        return
    grams = np.lib.stride_tricks.sliding_window_view(context, size)  # [L - size + 1, size]
    tail = context[len(context) - size + 1 :]
    row[grams[(grams[:, :-1] == tail).all(-1), -1]] = NEVER


def ban_tokens(row: FloatArray, tokens: Sequence[int]) -> None:
    """Forbid `tokens`: the end tokens while an output is too short."""
    row[list(tokens)] = NEVER


def apply_temperature(logits: FloatArray, temperature: float) -> None:
    """Divide `logits` by `temperature`."""
    logits /= np.float32(temperature)


def log_normalizer(logits: FloatArray) -> FloatArray:
    """[n] what to subtract from each row's logits to get log-probabilities."""
    best = logits.max(-1)
    total: FloatArray = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    return total
