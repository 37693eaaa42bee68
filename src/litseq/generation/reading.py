"""Prompts on their way into the model: what is left to read of each, and which are read in one call."""

from __future__ import annotations

from collections.abc import Sequence

from litseq.generation.packing import groups
from litseq.generation.reuse import SHORTEST, PrefixStore, common
from litseq.generation.row import Row
from litseq.generation.step_model import StepModel


class Entering:
    """A row whose prompt is being read."""

    __slots__ = ("begun", "left", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.left = list(row.job.request.prompt.ids)
        """What of the prompt is not yet read."""
        self.begun = False

    @property
    def prompt(self) -> Sequence[int]:
        """All of the prompt."""
        return self.row.job.request.prompt.ids


class Reader:
    """Chooses what to read next, and takes over what need not be read."""

    def __init__(self, model: StepModel, store: PrefixStore | None) -> None:
        self._model = model
        self._store = store
        self._reuses = model.can_rewind and model.reads_in_chunks

    def begin(self, entering: Sequence[Entering], rows: Sequence[Row], most: int) -> int:
        """How many of the rows that enter, from the first on, are read in the next call.

        Rows that begin as one that has been read take its beginning over; those that begin as one that is read in this
        very call wait for the next.

        Args:
            entering: The rows that enter; they stand behind `rows` in the model.
            rows: The rows that generate.
            most: Tokens of the call at most.
        """
        first = len(rows)
        count = 0
        for i, new in enumerate(entering):
            if not new.begun:
                if self._waits_for(new, entering[:i]):
                    break
                self._take_over(new, first + i, rows, entering[:i])
                new.begun = True
            count += 1
            if sum(len(e.left) for e in entering[:count]) >= most:
                break
        stop = next(stop for _, stop in groups([len(e.left) for e in entering[:count]], most))
        return self._fitting(entering[:stop], first)

    def save(self, row: Row, place: int) -> None:
        """Keep what the row that leaves has read and said, if its request asks for it."""
        request = row.job.request
        if self._store is None or not request.keep or not self._shares(row):
            return
        length = int(self._model.lengths[place])
        ids = [*request.prompt.ids, *row.tokens][:length]
        if row.search is not None:
            ids = ids[: len(request.prompt.ids)]
        if len(ids) >= SHORTEST and not self._store.holds(ids):
            self._store.add(ids, self._model.save(place, len(ids)))

    def _fitting(self, entering: Sequence[Entering], first: int) -> int:
        """How many of the rows from `first` on fit into one call: their padding, too, needs places that the model has."""
        held = longest = 0
        for i, (new, length) in enumerate(zip(entering, self._model.lengths[first:].tolist(), strict=False)):
            held, longest = max(held, length), max(longest, len(new.left))
            if i and held + longest > self._model.max_length:
                return i
        return len(entering)

    def _shares(self, row: Row) -> bool:
        """Whether what the model holds of a row follows from its tokens alone: not where it looks at a source."""
        return self._reuses and row.job.request.prompt.source is None

    def _waits_for(self, new: Entering, before: Sequence[Entering]) -> bool:
        return self._shares(new.row) and any(
            len(e.left) > 0 and len(e.prompt) - len(e.left) < shared
            for e in before
            if (shared := common(e.prompt, new.prompt)) >= SHORTEST
        )

    def _take_over(self, new: Entering, place: int, rows: Sequence[Row], before: Sequence[Entering]) -> None:
        prompt = new.prompt
        usable = len(prompt) - 1  # the last token is read in any case: its scores are wanted
        if not self._shares(new.row) or usable < SHORTEST:
            return
        best, source = 0, -1
        for i, row in enumerate([*rows, *(e.row for e in before)]):
            ids = row.job.request.prompt.ids
            if len(ids) >= SHORTEST and ids[0] == prompt[0]:
                length = min(common(ids, prompt), int(self._model.lengths[i]))
                best, source = max((best, source), (length, i))
        kept = self._store.find(prompt) if self._store is not None else None
        length = min(usable, best if kept is None else max(best, kept[1]))
        if length < SHORTEST:
            return
        if kept is not None and kept[1] > best:
            self._model.load(place, kept[0].saved, length)
        else:
            self._model.copy(place, source, length)
        new.left = list(prompt[length:])
