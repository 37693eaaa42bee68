"""Documents to pieces, pieces to full blocks."""

from bisect import bisect_left, insort

import numpy as np

from litseq.data.ragged import Counts


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
    """Put pieces into as few blocks as best-fit-decreasing finds: the longest first, each where it leaves least room.

    Returns:
        (order, bounds): block b holds the pieces order[bounds[b]:bounds[b + 1]], in their original order.
    """
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
    order = np.argsort(block_of, kind="stable")
    return order, np.searchsorted(block_of[order], np.arange(blocks + 1))


def lay(offsets: Counts, size: int) -> tuple[Counts, Counts, Counts]:
    """Lay sequences end to end and cut wherever a block is full, so that all blocks but the last one are.

    Returns:
        (starts, lengths, bounds): the pieces in order; block b holds the pieces bounds[b] to bounds[b + 1].
    """
    total = int(offsets[-1])
    starts = np.union1d(offsets[:-1], np.arange(0, total, size))
    lengths = np.diff(starts, append=total)
    return starts, lengths, np.searchsorted(starts, np.arange(0, total + size, size)[: -(-total // size) + 1])
