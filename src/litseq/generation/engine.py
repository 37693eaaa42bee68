"""The one generation loop: requests go in, tokens come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from litseq.errors import UsageError
from litseq.generation.choice import Chooser
from litseq.generation.row import FinishReason, Request, Result, Row
from litseq.generation.step_model import IntArray, Scores, StepModel


class Engine:
    """Runs requests over the rows of a step model.

    `submit` at any time; each `step` is one call of the model: it reads the prompts of waiting requests when rows are
    free, else gives every running row its next token. Finished rows leave at once and waiting requests take their
    place. Offline batches, streaming and a server are this loop; only who calls `step` differs.
    """

    def __init__(self, model: StepModel, end_tokens: Sequence[int], *, max_rows: int = 32, admit_at: int = 1) -> None:
        """Take over `model`, which must hold no rows.

        Args:
            model: The model.
            end_tokens: A row ends with any of these.
            max_rows: Rows that run at the same time; it bounds the memory of the caches.
            admit_at: Read new prompts only when so many rows are free (or all that wait fit, or none runs): 1 for low
                latency, more for throughput.
        """
        if model.rows:
            raise ValueError(f"the model holds {model.rows} rows already, expected a model without rows")
        self._model = model
        self._end_tokens = frozenset(end_tokens)
        self._max_rows = max_rows
        self._admit_at = max(1, min(admit_at, max_rows))
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._pending: IntArray = np.empty(0, np.int64)  # the newest token of each row, not yet given to the model
        self._chooser = self._new_chooser([])
        self._tickets = 0

    def submit(self, request: Request) -> int:
        """Queue a request; the ticket names its result.

        Raises:
            UsageError: when the prompt does not fit the model.
        """
        room = self._model.max_length - len(request.prompt.ids) + 1
        if not request.prompt.ids or room < 1:
            found = len(request.prompt.ids)
            raise UsageError(
                f"a prompt has {found} tokens, the model takes 1 to {self._model.max_length}; shorten the prompt"
            )
        self._tickets += 1
        limit = min(room, request.options.max_new_tokens or room)
        self._waiting.append(Row(self._tickets, request, limit))
        return self._tickets

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._rows

    def step(self) -> list[Result]:
        """Call the model once; the results of the rows that finished by it."""
        if self._may_admit():
            return self._admit()
        if self._rows:
            return self._record(0, self._chooser, self._model.advance(self._pending, self._chooser.top_k))
        return []

    def cancel(self, ticket: int) -> Result | None:
        """End a request now; its result so far, or None when it has finished before."""
        for row in self._waiting:
            if row.ticket == ticket:
                self._waiting.remove(row)
                return row.finish("cancelled")
        for i, row in enumerate(self._rows):
            if row.ticket == ticket:
                self._drop([i])
                return row.finish("cancelled")
        return None

    def _may_admit(self) -> bool:
        free = self._max_rows - len(self._rows)
        waiting = len(self._waiting)
        return waiting > 0 and free > 0 and (free >= self._admit_at or waiting <= free or not self._rows)

    def _admit(self) -> list[Result]:
        count = min(len(self._waiting), self._max_rows - len(self._rows))
        # First come first served decides who enters; within the entrants the order is free, and rows of similar
        # length side by side are read together without padding.
        new = sorted((self._waiting.popleft() for _ in range(count)), key=lambda row: row.request.prompt.length)
        chooser = self._new_chooser(new)
        scores = self._model.admit([row.request.prompt for row in new], chooser.top_k)
        first = len(self._rows)
        self._rows += new
        self._pending = np.concatenate([self._pending, np.zeros(count, np.int64)])
        finished = self._record(first, chooser, scores)
        self._chooser = self._new_chooser(self._rows)
        return finished

    def _record(self, first: int, chooser: Chooser, scores: Scores) -> list[Result]:
        """Choose the tokens of the rows from `first` on, note them, and drop the rows that are done."""
        tokens = chooser.choose(scores)
        self._pending[first:] = tokens
        end_tokens = self._end_tokens
        done: list[tuple[int, FinishReason]] = []
        for i, token in enumerate(tokens.tolist(), first):
            row = self._rows[i]
            if token in end_tokens:
                done.append((i, "eos"))
                continue
            row.tokens.append(token)
            if row.on_token is not None and row.on_token(token):
                done.append((i, "stop"))
            elif len(row.tokens) >= row.limit:
                done.append((i, "length"))
        if not done:
            return []
        results = [self._rows[i].finish(reason) for i, reason in done]
        self._drop([i for i, _ in done])
        return results

    def _drop(self, indices: Sequence[int]) -> None:
        """Let rows leave: rows from the end move into their places, so that as few as possible are copied."""
        gone = set(indices)
        left = len(self._rows) - len(gone)
        order = np.arange(left)
        movers = (i for i in range(left, len(self._rows)) if i not in gone)
        for hole in sorted(gone):
            if hole < left:
                order[hole] = next(movers)
        self._rows = [self._rows[i] for i in order.tolist()]
        self._pending = self._pending[order]
        self._model.keep(order)
        self._chooser = self._new_chooser(self._rows)

    def _new_chooser(self, rows: Sequence[Row]) -> Chooser:
        return Chooser(rows, sorted(self._end_tokens), self._model.vocab_size)


def run(engine: Engine) -> list[Result]:
    """Step until nothing is left; the results by ticket."""
    results: list[Result] = []
    while not engine.idle:
        results += engine.step()
    return sorted(results, key=lambda result: result.ticket)
