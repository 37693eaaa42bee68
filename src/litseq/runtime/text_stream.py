"""Tokens to text while they come, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from litseq.text import StreamDecoder


class TextStream:
    """Text of one output. What may still turn out to begin a stop string is held back until it is decided."""

    def __init__(self, decoder: StreamDecoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._held = ""
        self._ready: list[str] = []
        self.stopped = False
        """Whether a stop string appeared; nothing behind it is given out."""

    def push(self, token: int) -> bool:
        """Take a token; whether a stop string is complete now."""
        return self._take(self._decoder.push(token))

    def flush(self) -> bool:
        """Take the end; whether a stop string was completed by what was held back. Call it once."""
        if not self.stopped and not self._take(self._decoder.flush()):
            self._give(len(self._held))
        return self.stopped

    def pop(self) -> str:
        """The text that became certain since the last call."""
        text = "".join(self._ready)
        self._ready.clear()
        return text

    def _take(self, piece: str) -> bool:
        if not piece or self.stopped:
            return self.stopped
        self._held += piece
        found = [at for text in self._stop if (at := self._held.find(text)) >= 0]
        if found:
            self._give(min(found))
            self._held, self.stopped = "", True
        else:
            self._give(len(self._held) - max((_overlap(self._held, text) for text in self._stop), default=0))
        return self.stopped

    def _give(self, length: int) -> None:
        if length:
            self._ready.append(self._held[:length])
            self._held = self._held[length:]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
