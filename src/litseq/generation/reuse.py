"""Beginnings of rows that need not be read again.

A prompt that begins as another row does, or as an earlier one did, takes over what the model made of these tokens: the
caches of equal beginnings are equal. Chats read only what is new in a turn, and prompts with one introduction read it
once.
"""

from __future__ import annotations

import threading
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
        with self._lock:
            head = tuple(ids[:SHORTEST])
            found = [entry for entry in self._entries.values() if entry.ids[:SHORTEST] == head]
            if len(head) < SHORTEST or not found:
                return None
            lengths = [common(entry.ids, ids) for entry in found]
            best = max(range(len(found)), key=lengths.__getitem__)
            self._entries.move_to_end(found[best].ids)
            return found[best], lengths[best]

    def add(self, ids: Sequence[int], saved: Saved) -> None:
        """Keep what the model holds after `ids`; beginnings of it that were kept by themselves are let go."""
        entry = Beginning(tuple(ids), saved)
        if len(entry.ids) < SHORTEST or saved.nbytes > self.max_bytes:
            return
        with self._lock:
            for old in [*self._entries.values()]:
                if old.ids == entry.ids[: len(old.ids)]:
                    self._drop(old)
            self._entries[entry.ids] = entry
            self._bytes += saved.nbytes
            while self._bytes > self.max_bytes:
                self._drop(next(iter(self._entries.values())))

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether all of `ids` is the beginning of something kept."""
        wanted = tuple(ids)
        with self._lock:
            return any(entry.ids[: len(wanted)] == wanted for entry in self._entries.values())

    def clear(self) -> None:
        """Let everything go."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _drop(self, entry: Beginning) -> None:
        del self._entries[entry.ids]
        self._bytes -= entry.saved.nbytes


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
