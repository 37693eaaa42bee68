"""Who guesses how rows go on: what a drafter is, how well it has done, and guesses copied from what a row holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from litseq.generation.row import Row
from litseq.generation.step_model import Prompt

_RATE = 0.25  # of the newest guess in a running share
_EDGE = -1  # no token: nothing is copied across it


class Record:
    """How often the guesses about one row came true.

    Guesses come true in runs: while a text copies, nearly all do, and elsewhere few. So two shares are kept, of the
    guesses behind one that came true and of all others.
    """

    __slots__ = ("after_hit", "after_miss", "hit")

    def __init__(self, after_miss: float = 0.3, after_hit: float = 0.7) -> None:
        self.after_miss = after_miss
        self.after_hit = after_hit
        self.hit = False
        """Whether the newest guess came true."""

    def note(self, hit: bool) -> None:
        """Learn from one guess."""
        if self.hit:
            self.after_hit += _RATE * (hit - self.after_hit)
        else:
            self.after_miss += _RATE * (hit - self.after_miss)
        self.hit = hit

    def expected(self, count: int) -> float:
        """How many of the next `count` guesses come true before one does not, on average."""
        again = self.after_hit
        first = again if self.hit else self.after_miss
        return first * (1.0 - again**count) / (1.0 - again) if again < 0.999 else first * count


class Drafter(Protocol):
    """Guesses how rows go on. What it guesses is checked, so that it may guess anything."""

    def update(self, rows: Sequence[Row]) -> Sequence[Record | None]:
        """Learn how the rows went on since the last call, and forget those that are gone.

        Returns:
            For each row how well guesses about it did; None where there is nothing to guess.
        """

    def draft(self, rows: Sequence[Row], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """Guess the next tokens of each row: up to `counts[i]`, none where that is 0. Only after `update`."""

    def cost(self, rows: int, count: int) -> float:
        """About how much longer than a plain step one takes that drafts and checks `count` tokens, until measured."""


def check_cost(rows: int, count: int) -> float:
    """About how much longer than a plain step one takes that checks `count` tokens for each of `rows` rows.

    Measured with a model of 12 layers (d 768) in single precision on two cores: below some 16 tokens memory bounds a call.
    """
    return 1.0 + 0.045 * rows * count


class PromptLookup:
    """Guesses that a row goes on as it did where its newest tokens occurred before (https://arxiv.org/abs/2304.04487).

    It looks in the prompt, the output and, for an encoder-decoder, the source. Looking costs some microseconds a token,
    so it guesses always, and learns from what comes whether its guesses would have been worth checking.
    """

    def __init__(self, *, default: bool = True) -> None:
        """With `default`, guess for rows whose option `prompt_lookup` is None too."""
        self._default = default
        self._rows: Sequence[Row] = ()
        self._texts: dict[Row, _Text | None] = {}
        self._in_order: list[_Text | None] = []

    def update(self, rows: Sequence[Row]) -> Sequence[Record | None]:
        """See `Drafter`."""
        if rows is not self._rows:
            self._rows = rows
            self._texts = {row: self._texts[row] if row in self._texts else self._text(row) for row in rows}
            self._in_order = list(self._texts.values())
        records: list[Record | None] = []
        for row, text in zip(rows, self._in_order, strict=True):
            if text is None:
                records.append(None)
            else:
                text.follow(row.tokens)
                records.append(text.record if text.place else None)
        return records

    def draft(self, rows: Sequence[Row], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """See `Drafter`."""
        return [
            text.draft(count) if text is not None and count else ()
            for text, count in zip(self._in_order, counts, strict=True)
        ]

    def cost(self, rows: int, count: int) -> float:
        """See `Drafter`."""
        return check_cost(rows, count)

    def _text(self, row: Row) -> _Text | None:
        wanted = self._default if row.options.prompt_lookup is None else row.options.prompt_lookup
        return _Text(row.job.request.prompt) if wanted else None


class _Text:
    """What one row holds, and where each pair and each triple of tokens in it occurred last."""

    __slots__ = ("_ids", "_newest", "_places", "_start", "place", "record")

    def __init__(self, prompt: Prompt) -> None:
        self.record = Record()
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}
        """Behind which place of `_ids` a pair or triple stood; never behind the newest tokens."""
        for part in (prompt.source or (), prompt.ids):
            self._ids.append(_EDGE)
            first = len(self._ids)
            self._ids += part
            for n in (2, 3):
                grams = zip(*(part[i:] for i in range(n)), strict=False)
                self._places.update(zip(grams, range(first + n, len(self._ids)), strict=False))
        self._start = len(self._ids)
        a, b, c = (_EDGE, *self._ids)[-3:]
        self._newest = a, b, c
        self.place = self._look_up()
        """Where the guess for the next token stands; 0: there is none."""

    def follow(self, tokens: Sequence[int]) -> None:
        """Note how the output, which now is `tokens`, went on."""
        ids, places, place = self._ids, self._places, self.place
        known = len(ids) - self._start
        if len(tokens) == known:
            return
        for token in tokens[known:]:
            hit = False
            if place:
                hit = ids[place] == token
                self.record.note(hit)
            a, b, c = self._newest
            places[b, c] = places[a, b, c] = len(ids)
            ids.append(token)
            self._newest = b, c, token
            # As long as the guesses come true it goes on where it is: that is the longest match.
            if hit and ids[place + 1] != _EDGE:
                place += 1
            else:
                place = self._look_up()
                self.record.hit = hit and place > 0
        self.place = place

    def draft(self, count: int) -> list[int]:
        """Up to `count` tokens as they followed before; what runs into its own end goes round."""
        found = self._ids[self.place : self.place + count]
        if _EDGE in found:
            return found[: found.index(_EDGE)]
        return (found * -(-count // len(found)))[:count] if len(found) < count else found

    def _look_up(self) -> int:
        newest = self._newest
        return self._places.get(newest) or self._places.get(newest[1:]) or 0
