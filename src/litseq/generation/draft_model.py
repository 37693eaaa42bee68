"""Guesses by a smaller model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation.drafts import Record, check_cost
from litseq.generation.row import Row
from litseq.generation.step_model import Prompt, StepModel

_CALL_TOKENS = 512
_LAG = 16  # tokens that rows may be behind and still be read side by side
_PATIENCE = 8
_MOST_PATIENCE = 1024


class DraftModel:
    """Guesses what another model, whose tokens are the same, would say; each guess is a step of that model.

    It follows the rows of the engine with rows of its own. Whether its guesses come true shows only when they are checked,
    which costs time: where it does not pay it is tried again after 8 steps, then after 16, 32 and so on.
    """

    def __init__(self, model: StepModel) -> None:
        """Take over `model`, which must hold no rows and be able to shorten them."""
        if model.rows or not model.can_rewind:
            raise ValueError("a draft model must hold no rows, and be able to shorten them")
        self._model = model
        self._followed: dict[Row, _Followed] = {}
        self._held: list[_Followed] = []  # by the model's rows

    def update(self, rows: Sequence[Row]) -> Sequence[Record | None]:
        """See `Drafter`."""
        known = self._followed
        self._followed = {row: known.get(row) or _Followed(row) for row in rows}
        for row in rows:
            self._followed[row].settle()
        return [followed.record if self._has_room(followed) else None for followed in self._followed.values()]

    def draft(self, rows: Sequence[Row], counts: Sequence[int]) -> Sequence[Sequence[int]]:
        """See `Drafter`."""
        self._settle_rows()
        wanted = [self._followed[row] for row, count in zip(rows, counts, strict=True) if count]
        if new := [followed for followed in wanted if followed not in self._held]:
            self._model.admit([followed.prompt for followed in new])
            self._held += new
        for place, followed in enumerate(self._held):
            self._catch_up(place, followed)
        deepest = min(self._model.max_length - followed.length for followed in self._held) + 1
        found = dict(zip(self._held, self._guess(min(max(counts), deepest)), strict=True))
        guesses = []
        for row, count in zip(rows, counts, strict=True):
            followed = self._followed[row]
            guess = found[followed][:count] if count else []
            followed.expect(guess)
            guesses.append(guess)
        return guesses

    def cost(self, rows: int, count: int) -> float:
        """See `Drafter`; a draft model is supposed to take a fifth of the time."""
        return check_cost(rows, count) + 0.2 * count

    def _guess(self, count: int) -> list[list[int]]:
        """Read what the rows do not hold yet, the newest token at least, and go on greedily."""
        tokens = self._model.read(0, [followed.missing() for followed in self._held]).logits.argmax(-1)
        steps = [tokens]
        for _ in range(count - 1):
            tokens = self._model.advance(tokens).logits.argmax(-1)
            steps.append(tokens)
        guesses: list[list[int]] = np.stack(steps, 1).tolist()
        for followed, guess in zip(self._held, guesses, strict=True):
            followed.held, followed.unsure = followed.length, guess[:-1]
        return guesses

    def _catch_up(self, place: int, followed: _Followed) -> None:
        """Read all but the newest token of a row that is far behind, a new one above all."""
        if followed.held == 0 and not self._model.reads_in_chunks:
            self._read(place, followed, followed.prompt.ids)
        while len(missing := followed.missing()) - 1 > _LAG:
            self._read(place, followed, missing[: min(len(missing) - 1, _CALL_TOKENS)])

    def _read(self, place: int, followed: _Followed, ids: Sequence[int]) -> None:
        self._model.read(place, [ids])
        followed.held += len(ids)

    def _settle_rows(self) -> None:
        """Drop rows that are gone, and guesses that were wrong."""
        kept = [i for i, f in enumerate(self._held) if self._followed.get(f.row) is f and self._has_room(f)]
        self._model.keep(np.array(kept, np.int64))
        self._held = [self._held[i] for i in kept]
        self._model.rewind(np.array([followed.held for followed in self._held], np.int64))

    def _has_room(self, followed: _Followed) -> bool:
        """Whether the model can take the row: its source, and the output with some padding behind it."""
        source = len(followed.prompt.source or ())
        # A prompt that must be read whole is read alone, so a token must stand behind it for the call with the others.
        begun = self._model.reads_in_chunks or bool(followed.row.tokens)
        return begun and max(followed.length + _LAG, source) <= self._model.max_length


class _Followed:
    """A row of the engine, as the draft model knows it."""

    __slots__ = ("_expected", "_patience", "_start", "_waited", "held", "record", "row", "unsure")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.record = _fresh_record()
        self.held = 0
        """Tokens of the row that the model's row begins with."""
        self.unsure: Sequence[int] = ()
        """Guesses that the model's row holds behind those."""
        self._expected: Sequence[int] = ()
        self._start = 0
        self._patience = _PATIENCE
        self._waited = 0

    @property
    def prompt(self) -> Prompt:
        return self.row.job.request.prompt

    @property
    def length(self) -> int:
        """Tokens of prompt and output."""
        return len(self.prompt.ids) + len(self.row.tokens)

    def missing(self) -> list[int]:
        """What the model's row does not hold yet."""
        beyond = self.held - len(self.prompt.ids)
        return self.row.tokens[beyond:] if beyond >= 0 else [*self.prompt.ids[self.held :], *self.row.tokens]

    def expect(self, guess: Sequence[int]) -> None:
        """Remember a guess to see what becomes of it."""
        self._expected, self._start = guess, len(self.row.tokens)

    def settle(self) -> None:
        """See what became of the last guess; after a while without one, give the model another chance."""
        if self.unsure:
            self.held += sum(_hits(self.unsure, self.row.tokens[self.held - len(self.prompt.ids) :]))
            self.unsure = ()
        if self._expected:
            hits = _hits(self._expected, self.row.tokens[self._start :])
            for hit in hits:
                self.record.note(hit)
            if hits and all(hits):
                self._patience = max(_PATIENCE, self._patience // 2)
            self._expected, self._waited = (), 0
            return
        self._waited += 1
        if self._waited >= self._patience:
            self._waited = 0
            if self.record.expected(1) < (fresh := _fresh_record()).expected(1):
                self.record = fresh
                self._patience = min(2 * self._patience, _MOST_PATIENCE)


def _fresh_record() -> Record:
    return Record(0.6, 0.8)


def _hits(guesses: Sequence[int], tokens: Sequence[int]) -> list[bool]:
    """Which guesses came true, up to the first that did not."""
    hits = []
    for guess, token in zip(guesses, tokens, strict=False):
        hits.append(guess == token)
        if guess != token:
            break
    return hits
