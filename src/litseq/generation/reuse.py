"""Beginnings of rows that need not be read again.

A prompt that begins as another row does, or as an earlier one did, takes over what the model made of these tokens: the
caches of equal beginnings are equal. Chats read only what is new in a turn, and prompts with one introduction read it
once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from litseq.generation.step_model import Saved

SHORTEST = 16
"""Tokens: a shorter beginning costs less to read again than to look after."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What the model holds after reading `ids`."""

    ids: tuple[int, ...]
    saved: Saved


class PrefixStore:
    """Beginnings of rows by their token ids, the least recently used one goes first. Safe to use from several threads."""

    def __init__(self, max_bytes: int) -> None:
        """An empty store that holds at most `max_bytes`."""
        self.max_bytes = max_bytes
        self._entries: OrderedDict[tuple[int, ...], Beginning] = OrderedDict()
        # Sorted, what has most in common with some ids stands beside the place where they belong, and what they begin
        # at that place: thousands of small entries, as a small model's, need not be looked at one by one.
        self._sorted: list[tuple[int, ...]] = []
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Memory the beginnings take."""
        return self._bytes

    def find(self, ids: Sequence[int]) -> tuple[Beginning, int] | None:
        """The beginning that has most tokens in common with `ids`, and how many; None when they are too few."""
        wanted = tuple(ids)
        with self._lock:
            at = bisect_left(self._sorted, wanted)
            beside = self._sorted[max(0, at - 1) : at + 1]
            length, best = max(((common(entry, wanted), entry) for entry in beside), default=(0, ()))
            if length < SHORTEST:
                return None
            self._entries.move_to_end(best)
            return self._entries[best], length

    def add(self, ids: Sequence[int], saved: Saved) -> None:
        """Keep what the model holds after `ids`; beginnings of it that were kept by themselves are let go."""
        entry = Beginning(tuple(ids), saved)
        if len(entry.ids) < SHORTEST or saved.nbytes > self.max_bytes:
            return
        with self._lock:
            if (held := self._beginning_with(entry.ids)) is not None:
                self._entries.move_to_end(held)
                return
            # As no entry begins another, at most one begins this one, and none stands between them.
            at = bisect_left(self._sorted, entry.ids)
            if at and entry.ids[: len(before := self._sorted[at - 1])] == before:
                self._drop(before)
            self._entries[entry.ids] = entry
            insort(self._sorted, entry.ids)
            self._bytes += saved.nbytes
            while self._bytes > self.max_bytes:
                self._drop(next(iter(self._entries)))

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether all of `ids` is the beginning of something kept."""
        with self._lock:
            return self._beginning_with(tuple(ids)) is not None

    def clear(self) -> None:
        """Let everything go."""
        with self._lock:
            self._entries.clear()
            self._sorted.clear()
            self._bytes = 0

    def _beginning_with(self, ids: tuple[int, ...]) -> tuple[int, ...] | None:
        at = bisect_left(self._sorted, ids)
        found = at < len(self._sorted) and self._sorted[at][: len(ids)] == ids
        return self._sorted[at] if found else None

    def _drop(self, ids: tuple[int, ...]) -> None:
        self._bytes -= self._entries.pop(ids).saved.nbytes
        del self._sorted[bisect_left(self._sorted, ids)]


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    most = min(len(a), len(b))
    if tuple(a[:most]) == tuple(b[:most]):
        return most
    low, high = 0, most  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if tuple(a[low:middle]) == tuple(b[low:middle]):
            low = middle
        else:
            high = middle
    return low
