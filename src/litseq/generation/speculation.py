"""Several tokens a step: guess how rows go on, check the guesses in one call, keep what the model says anyway.

A guess is kept only where the model's likeliest token is the guessed one, so the output is the greedy one whatever is
guessed (https://arxiv.org/abs/2211.17192). One call over several tokens computes what several steps do, up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from litseq.generation.drafts import Drafter, Record
from litseq.generation.plan import Plan, Turn
from litseq.generation.row import Row
from litseq.generation.step_model import IntArray, StepModel

MOST_ROWS = 8
"""Rows of a step that guesses, unless one insists: the more rows, the less is free in a call."""
_SIZES = (1, 3, 7, 15)
_MARGIN = 1.05
"""Tokens for the time of one that a step must promise to give: measured times scatter."""
_HOPELESS = 0.04
_DOUBT = 0.01


class Estimate:
    """A running value of a time that is quick to fall and slow to rise: what disturbs a measurement makes it longer."""

    __slots__ = ("count", "doubt", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.count = 0
        self.doubt = 0.0
        """By how much it may be too high by now; a new measurement settles it."""

    def note(self, value: float) -> None:
        """Learn from one measurement. The first ones of a shape set up its memory, so the least of them counts."""
        self.count, self.doubt = self.count + 1, 0.0
        if self.count == 1 or (self.count <= 3 and value < self.value):
            self.value = value
        elif self.count > 3:
            rate = 0.3 if value < self.value else 0.1
            self.value += rate * (min(value, 2 * self.value) - self.value)


class Costs:
    """What steps cost a model, measured while it runs.

    One for each model, kept as long as it is loaded. Threads may share it: an update that gets lost does no harm.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Measure by `clock`, in seconds."""
        self.clock = clock
        self._plain: dict[int, Estimate] = {}
        self._ratios: dict[tuple[type, int, int], Estimate] = {}
        self._doubts = 0

    def note_plain(self, rows: int, seconds: float) -> None:
        """A plain step over `rows` rows took so long."""
        if (estimate := self._plain.get(rows)) is None:
            estimate = self._plain[rows] = Estimate()
        estimate.note(seconds)

    def note(self, drafter: Drafter, rows: int, count: int, seconds: float) -> None:
        """To draft and check `count` tokens for each of `rows` rows took so long."""
        plain = self._plain.get(rows)
        if plain is None or plain.count < 3:
            return
        key = type(drafter), rows, _size(count)
        if key not in self._ratios:
            self._ratios[key] = Estimate()
        self._ratios[key].note(seconds / plain.value)

    def knows(self, rows: int) -> bool:
        """Whether plain steps over so many rows were measured."""
        plain = self._plain.get(rows)
        return plain is not None and plain.count >= 3

    def ratio(self, drafter: Drafter, rows: int, count: int) -> float:
        """How much longer such a step takes than a plain one; infinite where fewer tokens should be tried first."""
        measured = self._ratios.get((type(drafter), rows, count))
        if measured is not None:
            return max(1.0, measured.value - measured.doubt)
        place = _SIZES.index(count)
        usual = drafter.cost(rows, count)
        smaller = self._ratios.get((type(drafter), rows, _SIZES[place - 1])) if place else None
        if smaller is not None:
            # Between a share for each token and the same for any number of them.
            return max(usual, 1.0 + (smaller.value - 1.0) * math.sqrt(count / _SIZES[place - 1]))
        return usual if place < 2 else math.inf

    def doubt(self, drafter: Drafter, rows: int) -> None:
        """Doubt one of the measured ratios a little more: what is never tried again is never measured again.

        By the same amount each time, so that what takes ten times as long is tried ten times as seldom.
        """
        self._doubts += 1
        found = self._ratios.get((type(drafter), rows, _SIZES[self._doubts % len(_SIZES)]))
        if found is not None:
            # One or two measurements may both have been disturbed.
            found.doubt += _DOUBT if found.count > 2 else max(_DOUBT, 0.03 * found.value)


class Speculation:
    """The greedy steps of an engine: decides for each whether guessing pays, and does it."""

    def __init__(
        self,
        model: StepModel,
        end_tokens: Sequence[int],
        drafters: Sequence[Drafter],
        costs: Costs | None = None,
    ) -> None:
        """Guess by `drafters` for rows of `model`, which must be able to shorten them.

        Args:
            model: The model.
            end_tokens: A row ends with any of these.
            drafters: Who may guess; for each step the one that promises most.
            costs: What steps of this model were measured to cost before.
        """
        self._model = model
        self._end_tokens = frozenset(end_tokens)
        self._drafters = list(drafters)
        self._costs = costs or Costs()
        self._clock = self._costs.clock
        self._plan: Plan | None = None
        self._insists = False

    def step(self, plan: Plan, pending: IntArray) -> Turn:
        """Give every row of a greedy plan its next token, or more than one."""
        if plan is not self._plan:
            self._plan = plan
            self._insists = any(row.options.prompt_lookup is True for row in plan.rows)
        rows = plan.rows
        if len(rows) <= MOST_ROWS or self._insists:
            choice = self._choose(rows)
            if choice is not None:
                drafter, counts = choice
                began = self._clock()
                guesses = [self._trim(guess, n) for guess, n in zip(drafter.draft(rows, counts), counts, strict=True)]
                longest = max(map(len, guesses))
                if longest:
                    turn = self._check(plan, pending, guesses)
                    self._costs.note(drafter, len(rows), longest, self._clock() - began)
                    return turn
        began = self._clock()
        scores = self._model.advance(pending, plan.top_k)
        self._costs.note_plain(len(rows), self._clock() - began)
        return plan.take(scores)

    def _choose(self, rows: Sequence[Row]) -> tuple[Drafter, list[int]] | None:
        """Who should guess, and how many tokens of each row; None: nobody."""
        best: tuple[float, Drafter, int, Sequence[Record | None]] | None = None
        for drafter in self._drafters:
            records = drafter.update(rows)
            insist = self._insists and any(
                record is not None and row.options.prompt_lookup is True
                for row, record in zip(rows, records, strict=True)
            )
            gain, count = self._best_count(drafter, rows, records, insist)
            if count and (best is None or gain > best[0]):
                best = gain, drafter, count, records
        if best is None:
            return None
        return best[1], self._counts(rows, best[3], best[2])

    def _best_count(
        self, drafter: Drafter, rows: Sequence[Row], records: Sequence[Record | None], insist: bool
    ) -> tuple[float, int]:
        """Tokens for the time of one that the drafter promises, and with how many guesses a row; 0: with none."""
        if not insist and (
            not self._costs.knows(len(rows)) or sum(r.expected(1) for r in records if r is not None) < _HOPELESS
        ):
            return 0.0, 0
        best, best_count, hope = 0.0 if insist else _MARGIN, 0, 0.0
        for size in _SIZES:
            counts = self._counts(rows, records, size)
            if not any(counts):
                break
            expected = sum(r.expected(n) for r, n in zip(records, counts, strict=True) if r is not None)
            tokens = 1.0 + expected / len(rows)
            hope = max(hope, tokens / drafter.cost(len(rows), size))
            gain = tokens / self._costs.ratio(drafter, len(rows), size)
            if gain > best:
                best, best_count = gain, size
            if max(counts) < size:
                break
        if not best_count and hope > _MARGIN:
            self._costs.doubt(drafter, len(rows))
        return best, best_count

    def _counts(self, rows: Sequence[Row], records: Sequence[Record | None], size: int) -> list[int]:
        """How many tokens may be guessed of each row: none beyond its limit, and the padded call must fit the model."""
        held = max(len(row.job.request.prompt.ids) + len(row.tokens) for row in rows)
        most = max(0, min(size, self._model.max_length - held))
        return [
            0 if record is None else min(most, row.limit - len(row.tokens) - 1)
            for row, record in zip(rows, records, strict=True)
        ]

    def _trim(self, guess: Sequence[int], count: int) -> Sequence[int]:
        """What of a guess is checked: what comes behind an end token never would be taken."""
        for i, token in enumerate(guess):
            if i == count or token in self._end_tokens or not 0 <= token < self._model.vocab_size:
                return guess[:i]
        return guess

    def _check(self, plan: Plan, pending: IntArray, guesses: Sequence[Sequence[int]]) -> Turn:
        """Read the newest tokens with the guesses behind them, and take what the model would have chosen."""
        ids = [[token, *guess] for token, guess in zip(pending.tolist(), guesses, strict=True)]
        lengths = [len(row.job.request.prompt.ids) + len(row.tokens) for row in plan.rows]
        best = iter(self._model.read(0, ids, every=True).logits.argmax(-1).tolist())
        turn = Turn(pending.copy())
        for place, (row, guess) in enumerate(zip(plan.rows, guesses, strict=True)):
            running = True
            for guessed, token in zip([*guess, None], best, strict=False):
                if not running:
                    continue  # its scores lie behind a guess that was wrong
                if (reason := plan.accept(row, token)) is not None:
                    plan.end(turn, place, reason)
                    running = False
                elif token == guessed:
                    lengths[place] += 1
                else:
                    running = False
                turn.tokens[place] = token
        self._model.rewind(np.array(lengths))
        return turn


def _size(count: int) -> int:
    """The number of guesses that `count` is measured as."""
    return next((size for size in _SIZES if count <= size), _SIZES[-1])
