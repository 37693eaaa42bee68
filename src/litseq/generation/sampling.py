"""Sample one token from one row of logits. The same tokens are allowed as by the logits warpers of `transformers`.

A row is filtered and sampled on its own, so that a sample never depends on the batch. Vocabularies are large and filters
keep little: each filter first finds a small set that certainly holds what it keeps, and is exact only within that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from litseq.generation.options import GenerationOptions
from litseq.generation.step_model import FloatArray, IntArray

_BLOCK = 64
_LOWEST_TEMPERATURE = np.finfo(np.float32).tiny
_DEPTHS = (8.0, 20.0)
"""Logits this far below the best are looked at first for `top_p`: probabilities down to e^-8 of the best, then e^-20."""


def sample(row: FloatArray, options: GenerationOptions, uniform: float) -> int:
    """Draw a token from logits [V] by inverting the cumulated probabilities at `uniform`, in [0, 1).

    The filters apply in the order temperature, `top_k`, `top_p`, `min_p`, each to what the one before it left.
    """
    best = row.max()
    if not np.isfinite(best):  # everything is forbidden, or the model is broken: there is nothing to draw from
        return int(row.argmax())
    if options.temperature is not None and options.temperature != 1:
        # Counted from the best, which no temperature, however low, takes beyond the largest number.
        with np.errstate(over="ignore"):
            row = (row - best) / max(np.float32(options.temperature), _LOWEST_TEMPERATURE)
        best = row.max()
    if options.top_k is None and options.top_p is None and options.min_p is None:
        return _draw_from_all(np.exp(row - best), uniform)
    allowed = filtered(row, options.top_k, options.top_p, options.min_p)
    return int(allowed[_draw(np.exp(row[allowed] - best), uniform)])


def filtered(row: FloatArray, top_k: int | None, top_p: float | None, min_p: float | None) -> IntArray:
    """The tokens that the filters leave of logits [V], in the order of the vocabulary."""
    allowed = np.arange(len(row)) if top_k is None else _top_k(row, top_k)
    if top_p is not None and top_p < 1:
        allowed = allowed[_top_p(row[allowed], top_p)]
    if min_p:
        values = row[allowed]
        allowed = allowed[values >= values.max() + np.float32(np.log(min_p))]
    return allowed


def _top_k(row: FloatArray, k: int) -> IntArray:
    """The k best tokens, and those equal to the k-th."""
    if k >= len(row):
        return np.arange(len(row))
    whole = len(row) - len(row) % _BLOCK
    heads = np.concatenate([row[:whole].reshape(-1, _BLOCK).max(-1), row[whole:]])
    if k < len(heads):
        # k different tokens are at least as good as the k-th of the blocks' best ones, so the k-th of all is too.
        candidates = np.flatnonzero(row >= np.partition(heads, -k)[-k])
    else:
        candidates = np.arange(len(row))
    values = row[candidates]
    best: IntArray = candidates[values >= np.partition(values, -k)[-k]]
    return best


def _top_p(values: FloatArray, p: float) -> IntArray:
    """Places of the fewest best `values` whose probability sums to at least `p`, in ascending order."""
    best = values.max()
    weights = np.exp(values - best)
    wanted = p * float(weights.sum(dtype=np.float64))
    for depth in (*_DEPTHS, np.inf):
        # What lies above a threshold and weighs enough holds the nucleus.
        places = np.flatnonzero(values >= best - np.float32(depth))
        if depth == np.inf or float(weights[places].sum(dtype=np.float64)) >= wanted:
            break
    order = np.argsort(-values[places], kind="stable")
    heavy = weights[places][order].astype(np.float64)
    kept = np.cumsum(heavy) - heavy < wanted
    return np.sort(places[order[kept]])


def _draw(weights: FloatArray, uniform: float) -> int:
    """The place where the cumulated `weights` pass `uniform` of their sum; never one of weight 0."""
    cumulated = np.cumsum(weights, dtype=np.float64)
    return min(int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right")), len(weights) - 1)


def _draw_from_all(weights: FloatArray, uniform: float) -> int:
    """`_draw` for a whole vocabulary: cumulate blocks first, then within the block that is hit."""
    whole = len(weights) - len(weights) % _BLOCK
    blocks: NDArray[np.float64] = weights[:whole].reshape(-1, _BLOCK).sum(-1, dtype=np.float64)
    cumulated = np.cumsum(np.append(blocks, weights[whole:].sum(dtype=np.float64)))
    target = uniform * cumulated[-1]
    block = min(int(np.searchsorted(cumulated, target, side="right")), len(cumulated) - 1)
    start = block * _BLOCK
    inner = np.cumsum(weights[start : start + _BLOCK], dtype=np.float64)
    before = cumulated[block - 1] if block else 0.0
    # Rounding may place the target just behind the block's own sum: its last token of any weight is meant then.
    place = min(int(np.searchsorted(inner, target - before, side="right")), int(np.searchsorted(inner, inner[-1])))
    return start + place
