"""Changes to logits before a token is chosen. A functional core: arrays in, arrays changed in place.

Per-row functions take one row `[V]` and its context (the tokens so far, prompt included; for an encoder-decoder those
of the decoder). The filters at the end take `[n, V]`: every row is worked on alone, so the result never depends on its
neighbours. All agree with the logits processors of `transformers`.
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


def keep_top_k(logits: FloatArray, k: int) -> None:
    """Forbid all but the k best of each row; tokens equal to the k-th stay."""
    if k < logits.shape[-1]:
        kth = np.partition(logits, -k, axis=-1)[:, -k, None]
        logits[logits < kth] = NEVER


def keep_top_p(logits: FloatArray, p: float) -> None:
    """Forbid all but the fewest best tokens of each row whose probability sums to at least `p`."""
    if p >= 1:
        return
    order = np.argsort(-logits, axis=-1, kind="stable")
    probabilities = softmax(np.take_along_axis(logits, order, -1))
    before = np.cumsum(probabilities, axis=-1, dtype=np.float64) - probabilities
    drop = np.zeros(logits.shape, bool)
    np.put_along_axis(drop, order, before >= p, -1)
    logits[drop] = NEVER


def keep_min_p(logits: FloatArray, min_p: float) -> None:
    """Forbid tokens whose probability is below `min_p` times that of the row's best."""
    if min_p > 0:
        logits[logits < logits.max(-1, keepdims=True) + np.float32(np.log(min_p))] = NEVER


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities [n, V] of each row."""
    shifted: FloatArray = np.exp(logits - logits.max(-1, keepdims=True))
    shifted /= shifted.sum(-1, keepdims=True)
    return shifted


def log_normalizer(logits: FloatArray) -> FloatArray:
    """[n] what to subtract from each row's logits to get log-probabilities."""
    best = logits.max(-1)
    total: FloatArray = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    return total


def sample(logits: FloatArray, uniforms: Sequence[float]) -> IntArray:
    """[n] one token a row, by inverting the cumulated probabilities at `uniforms` (each in [0, 1))."""
    tokens = np.empty(len(logits), np.int64)
    cumulated = np.cumsum(softmax(logits), axis=-1, dtype=np.float64)
    for i, (row, uniform) in enumerate(zip(cumulated, uniforms, strict=True)):
        # side="right" never lands on a token of probability 0.
        tokens[i] = min(int(np.searchsorted(row, uniform * row[-1], side="right")), len(row) - 1)
    return tokens
