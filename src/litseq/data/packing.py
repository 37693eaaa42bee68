"""Documents to pieces, pieces to full blocks."""

from bisect import bisect_left, insort
from collections import Counter

import numpy as np

from litseq.data.ragged import Counts

FULL = 0.99
"""The share of the positions of packed blocks that should hold a token."""


def cut(offsets: Counts, size: int) -> tuple[Counts, Counts]:
    """Cut every sequence from the front into pieces of `size`, the last one shorter.

    Args:
        offsets: N + 1 boundaries of the sequences in a flat array; none is empty.
        size: Length of a piece at most.

    Returns:
        (starts, lengths) of the pieces in the flat array, in order.
    """
    lengths = np.diff(offsets)
    counts = -(-lengths // size)
    first = np.repeat(offsets[:-1], counts)
    number = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = first + number * size
    return starts, np.minimum(size, np.repeat(offsets[1:], counts) - starts)


def pack(lengths: Counts, size: int) -> tuple[Counts, Counts]:
    """Put pieces into few blocks, whole.

    Returns:
        (order, bounds): block b holds the pieces order[bounds[b]:bounds[b + 1]], in their original order.
    """
    block_of = _best_fit(lengths, size)
    blocks = int(block_of.max(initial=-1)) + 1
    if lengths.sum() < FULL * blocks * size and blocks > _least_blocks(lengths, size):
        filled = _fill(lengths, size)
        block_of = min(block_of, filled, key=lambda found: int(found.max()))
        blocks = int(block_of.max()) + 1
    order = np.argsort(block_of, kind="stable")
    return order, np.searchsorted(block_of[order], np.arange(blocks + 1))


def _least_blocks(lengths: Counts, size: int) -> int:
    """What no packing gets below: all tokens need room, and of pieces over half a block each needs one."""
    return max(-(-int(lengths.sum()) // size), int((2 * lengths > size).sum()))


def _best_fit(lengths: Counts, size: int) -> Counts:
    """The block of each piece by best-fit-decreasing: the longest first, each where it leaves least room."""
    block_of = np.empty(len(lengths), dtype=np.int64)
    open_blocks: dict[int, list[int]] = {}  # room left -> blocks with that room
    rooms: list[int] = []  # the keys of `open_blocks`, sorted: there are at most `size` of them
    blocks = 0
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            block, room = blocks, size
            blocks += 1
        else:
            room = rooms[place]
            block = open_blocks[room].pop()
            if not open_blocks[room]:
                del open_blocks[room]
                del rooms[place]
        block_of[piece] = block
        if room > length:
            left = room - length
            if left not in open_blocks:
                open_blocks[left] = []
                insort(rooms, left)
            open_blocks[left].append(block)
    return block_of


def _fill(lengths: Counts, size: int) -> Counts:
    """The block of each piece, one block after the other filled to the brim.

    For pieces of which few go into a block best-fit-decreasing leaves those of medium length, which then fit badly. Here a
    block begins with the longest piece left and is filled with lengths of which there are many. Only the counts of the
    lengths are looked at, as in https://arxiv.org/abs/2107.02027, so that many pieces take hardly longer than some.
    """
    counts = np.bincount(lengths, minlength=size + 1)
    members = {int(length): np.flatnonzero(lengths == length).tolist() for length in np.flatnonzero(counts)}
    block_of = np.empty(len(lengths), dtype=np.int64)
    blocks = 0
    while (present := np.flatnonzero(counts)).size:
        pattern = _pattern(counts, size, int(present[-1]))
        needed = Counter(pattern)
        # The same again while there are plenty.
        for _ in range(max(1, min(int(counts[length]) // (4 * times) for length, times in needed.items()))):
            for length in pattern:
                block_of[members[length].pop()] = blocks
                counts[length] -= 1
            blocks += 1
    return block_of


_SLACK = 4  # positions that may be left empty where an exact fill is not found
_TRIES = 12  # lengths that are tried as the first of three
_MANY = 3.5  # a room for more pieces than this is not searched yet


def _pattern(counts: Counts, size: int, longest: int) -> list[int]:
    """Lengths that fill a block, the longest there is among them."""
    counts = counts.copy()
    pattern, room = [], size
    lengths = [longest]
    while lengths:
        for length in lengths:
            counts[length] -= 1
            room -= length
        pattern += lengths
        fitting = np.flatnonzero(counts[: room + 1])
        if not fitting.size:
            break
        longest = int(fitting[-1])
        lengths = [longest] if room > _MANY * longest else _last_lengths(counts, room, int(fitting[0]), longest)
    return pattern


def _last_lengths(counts: Counts, room: int, shortest: int, longest: int) -> list[int]:
    """One, two or three lengths that fill a room best."""
    for slack in range(min(room - longest, _SLACK)):
        wanted = room - slack
        if pair := _two(counts, wanted, shortest):
            return pair
        firsts = np.flatnonzero(counts[: max(0, wanted - 2 * shortest) + 1])
        for first in firsts[np.argsort(-counts[firsts], kind="stable")][:_TRIES].tolist():
            counts[first] -= 1
            pair = _two(counts, wanted - first, shortest)
            counts[first] += 1
            if pair:
                return [first, *pair]
    return [longest]


def _two(counts: Counts, wanted: int, shortest: int) -> list[int]:
    """Two lengths with this sum, those of which there are most; empty where there are none."""
    smaller = np.arange(shortest, wanted // 2 + 1)
    if not smaller.size:
        return []
    pairs = np.minimum(counts[smaller], counts[wanted - smaller])
    if wanted % 2 == 0:
        pairs[-1] //= 2
    best = int(pairs.argmax())
    return [int(smaller[best]), wanted - int(smaller[best])] if pairs[best] > 0 else []


def lay(offsets: Counts, size: int) -> tuple[Counts, Counts, Counts]:
    """Lay sequences end to end and cut wherever a block is full, so that all blocks but the last one are.

    Returns:
        (starts, lengths, bounds): the pieces in order; block b holds the pieces bounds[b] to bounds[b + 1].
    """
    total = int(offsets[-1])
    starts = np.union1d(offsets[:-1], np.arange(0, total, size))
    lengths = np.diff(starts, append=total)
    return starts, lengths, np.searchsorted(starts, np.arange(0, total + size, size)[: -(-total // size) + 1])
