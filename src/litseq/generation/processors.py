"""Changes to logits before a token is chosen. A functional core: arrays in, arrays changed in place.

A context is the tokens of a row so far, prompt included; for an encoder-decoder those of the decoder. All agree with the
logits processors of `transformers`, which a beam search applies to log-probabilities and everything else to logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.errors import UsageError
from litseq.generation.options import GenerationOptions
from litseq.generation.step_model import FloatArray, IntArray

NEVER = np.float32(-np.inf)


def process(
    row: FloatArray, context: IntArray, new: int, forced: int, options: GenerationOptions, end_tokens: Sequence[int]
) -> None:
    """Apply everything that `options` asks for to the values [V] of one row.

    Args:
        row: Logits, or log-probabilities in a beam search.
        context: The row's tokens so far.
        new: How many of them were generated.
        forced: How many before those are the forced beginning of the output.
        options: What to apply.
        end_tokens: Tokens that end a row.
    """
    if options.repetition_penalty != 1.0:
        penalize_repetition(row, context, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        ban_repeated_ngrams(row, context, options.no_repeat_ngram_size)
    if options.bad_words:
        ban_words(row, context, options.bad_words)  # type: ignore[arg-type]  # the loop takes ids only
    if new < options.min_new_tokens:
        ban_tokens(row, end_tokens)
    if options.prefix_allowed_tokens is not None:
        allow_only(row, options.prefix_allowed_tokens(context[len(context) - new - forced :].tolist()))


def penalize_repetition(row: FloatArray, context: IntArray, penalty: float) -> None:
    """Divide positive and multiply negative values of the tokens in `context` by `penalty`."""
    seen = row[context]
    row[context] = np.where(seen < 0, seen * np.float32(penalty), seen / np.float32(penalty))


def ban_repeated_ngrams(row: FloatArray, context: IntArray, size: int) -> None:
    """Forbid every token that would complete an n-gram of `size` that `context` already holds."""
    if len(context) < size:
        return
    grams = np.lib.stride_tricks.sliding_window_view(context, size)  # [L - size + 1, size]
    tail = context[len(context) - size + 1 :]
    row[grams[(grams[:, :-1] == tail).all(-1), -1]] = NEVER


def ban_words(row: FloatArray, context: IntArray, words: Sequence[Sequence[int]]) -> None:
    """Forbid the last token of each of `words` whose other tokens `context` ends with."""
    for word in words:
        head = len(word) - 1
        if head <= len(context) and context[len(context) - head :].tolist() == list(word[:-1]):
            row[word[-1]] = NEVER


def ban_tokens(row: FloatArray, tokens: Sequence[int]) -> None:
    """Forbid `tokens`: the end tokens while an output is too short."""
    row[list(tokens)] = NEVER


def allow_only(row: FloatArray, tokens: Sequence[int]) -> None:
    """Forbid all but `tokens`.

    Raises:
        UsageError: when there are none, or one is no token of the model.
    """
    try:
        allowed = np.asarray(tokens)
    except ValueError:  # a ragged list, refused below as an empty one is
        allowed = np.empty(0)
    if allowed.ndim != 1 or not len(allowed) or allowed.dtype.kind not in "iu":
        raise UsageError(f"prefix_allowed_tokens gave {tokens!r}, expected a list of at least one token id")
    if allowed.min() < 0 or allowed.max() >= len(row):
        raise UsageError(f"prefix_allowed_tokens gave a token id that the model lacks, it knows 0 to {len(row) - 1}")
    kept = row[allowed]
    row[:] = NEVER
    row[allowed] = kept


def log_normalizer(logits: FloatArray) -> FloatArray:
    """[n] what to subtract from each row's logits to get log-probabilities."""
    best = logits.max(-1)
    total: FloatArray = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    return total
