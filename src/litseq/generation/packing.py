"""Which rows share a call: rows of nearly equal length, so that little of the padded block is wasted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CALL_TOKENS = 4096
"""Tokens of one call at most: more costs memory for activations and wins no speed."""

_SPARE_PLACES = 16


def groups(lengths: Sequence[int], most_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut consecutive rows into calls: rows of nearly equal length, at most `most_tokens` places (or one row).

    Args:
        lengths: Tokens of each row.
        most_tokens: Places of a call, padding included.

    Yields:
        The first row of each call and the one behind its last.
    """
    start, total, longest = 0, 0, 0
    for i, length in enumerate(lengths):
        longest = max(length, longest)
        places = longest * (i - start + 1)
        # A little padding is cheaper than another call: a call of a small model costs as much as some ten tokens.
        if i > start and (places > most_tokens or places - total - length > max(_SPARE_PLACES, (total + length) // 10)):
            yield start, i
            start, total, longest = i, 0, length
        total += length
    if lengths:
        yield start, len(lengths)
