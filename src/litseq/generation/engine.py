"""The one generation loop: requests go in, tokens come out."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from litseq.errors import UsageError
from litseq.generation.beams import BeamSearch
from litseq.generation.drafts import Drafter
from litseq.generation.packing import CALL_TOKENS
from litseq.generation.plan import Plan, Turn
from litseq.generation.reading import Entering, Reader
from litseq.generation.reuse import PrefixStore
from litseq.generation.row import Job, Request, Result, Row
from litseq.generation.speculation import Costs, Speculation
from litseq.generation.step_model import IntArray, StepModel

CHUNK_TOKENS = 512
"""Tokens of prompts that are read in one step beside rows that generate: what these wait for at most, but for a longer
source, or prompt of a prefix-LM, which is read whole."""


class Engine:
    """Runs requests over the rows of a step model.

    `submit` at any time. Each `step` lets waiting requests enter while rows and memory are free, reads some of the
    prompts of those that entered, and gives every row that generates its next token. Prompts are read in chunks beside
    the rows that run, finished rows leave at once, and the beams or samples of one request are rows that enter and leave
    together. Offline batches, streaming and a server are this loop; only who calls `step` differs.
    """

    def __init__(
        self,
        model: StepModel,
        end_tokens: Sequence[int],
        *,
        max_rows: int = 32,
        max_tokens: int | None = None,
        admit_at: int = 1,
        chunk_tokens: int = CHUNK_TOKENS,
        reuse: PrefixStore | None = None,
        drafters: Sequence[Drafter] = (),
        costs: Costs | None = None,
    ) -> None:
        """Take over `model`, which must hold no rows.

        Args:
            model: The model.
            end_tokens: A row ends with any of these.
            max_rows: Rows that run at the same time; a request that needs more (beams) runs alone.
            max_tokens: Bounds the caches: rows x the most tokens one of them may come to hold, for an encoder-decoder
                plus those of the longest source. A request enters when what it may need fits beside what runs. None:
                only `max_rows` bounds them.
            admit_at: Let requests enter only when so many rows are free (or all that wait fit, or none runs): 1 for low
                latency, more for throughput.
            chunk_tokens: Tokens of prompts read in one step while rows generate.
            reuse: Where beginnings of rows are kept for later requests. Rows that run share theirs without it.
            drafters: Who may guess how greedy rows go on, where that saves steps; see `litseq.generation.speculation`.
            costs: What steps of this model were measured to cost before.
        """
        if model.rows:
            raise ValueError(f"the model holds {model.rows} rows already, expected a model without rows")
        self._model = model
        self._end_tokens = sorted(set(end_tokens))
        self._max_rows = max_rows
        self._max_tokens = max_tokens
        self._admit_at = max(1, min(admit_at, max_rows))
        self._chunk_tokens = max(1, chunk_tokens)
        self._reader = Reader(model, reuse)
        can_guess = bool(drafters) and model.can_rewind
        self._speculation = Speculation(model, self._end_tokens, drafters, costs) if can_guess else None
        self._waiting: list[tuple[tuple[int, int], Job]] = []  # a heap
        self._rows: list[Row] = []  # rows that generate; behind them, in the model, stand those that are read
        self._entering: list[Entering] = []
        self._pending: IntArray = np.empty(0, np.int64)  # the newest token of each row, not yet given to the model
        self._plan: Plan | None = None
        self._failed: list[Job] = []
        self._tickets = 0

    def submit(self, request: Request) -> int:
        """Queue a request; the ticket names its result.

        Raises:
            UsageError: when the prompt does not fit the model, or the caches' bound.
        """
        length = len(request.prompt.ids)
        room = self._model.max_length - length + 1
        if not length or room < 1:
            raise UsageError(
                f"a prompt has {length} tokens, the model takes 1 to {self._model.max_length}; shorten the prompt"
            )
        if any(isinstance(word, str) for word in request.options.bad_words):
            raise UsageError("bad_words holds texts, and the loop knows ids only; give lists of token ids")
        limit = min(room, request.options.max_new_tokens or room)
        job = Job(self._tickets + 1, request, limit, self._failed)
        each = _reach(job) + _source(job)
        if self._max_tokens is not None and job.width * each > self._max_tokens:
            raise UsageError(
                f"a request may come to hold {job.width * each} tokens ({job.width} rows of {each}), the caches are "
                f"bounded to {self._max_tokens}; lower max_new_tokens or num_beams, or raise the bound"
            )
        self._tickets += 1
        heapq.heappush(self._waiting, (job.order, job))
        return job.ticket

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._rows and not self._entering

    @property
    def waiting(self) -> int:
        """Requests that have not entered."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Rows of the model in use."""
        return len(self._rows) + len(self._entering)

    @property
    def reading(self) -> int:
        """Requests that have entered and whose prompts are not read to their end."""
        return len(self._entering)

    def step(self) -> list[Result]:
        """Read some of the prompts, and give every row that generates a token; the results that became complete.

        A request of which a function raises (`on_token`, `prefix_allowed_tokens`) is complete too: its result has the error.
        """
        self._admit()
        results = self._read() if self._entering else []
        if self._rows:
            plan = self._current_plan()
            if self._speculation is not None and plan.is_greedy:
                turn = self._speculation.step(plan, self._pending)
            else:
                turn = plan.take(self._model.advance(self._pending, plan.top_k))
            results += self._settle(0, plan, turn)
        return self._end_failed(results) if self._failed else results

    def cancel(self, ticket: int) -> Result | None:
        """End a request now; its result so far, or None when it has finished before."""
        for i, (_, job) in enumerate(self._waiting):
            if job.ticket == ticket:
                self._waiting[i] = self._waiting[-1]
                self._waiting.pop()
                heapq.heapify(self._waiting)
                return job.cancelled()
        for i, entering in enumerate(self._entering):
            if entering.row.job.ticket == ticket:
                del self._entering[i]
                gone = len(self._rows) + i
                self._model.keep(np.delete(np.arange(self._model.rows), gone))
                return entering.row.job.cancelled()
        turn = Turn(self._pending.copy())
        result = None
        for i, row in enumerate(self._rows):
            if row.job.ticket == ticket:
                turn.gone.append(i)
                if row.search is None:
                    for each in (row, *row.siblings):
                        result = row.job.finish(each.place, each.finish("cancelled")) or result
                elif row.place == 0:
                    result = row.search.result("cancelled")
        if turn.gone:
            self._rearrange(0, turn)
        return result

    def _end_failed(self, results: Sequence[Result]) -> list[Result]:
        """End what the failed requests still have running, and put their errors into their results."""
        errors = {job.ticket: job.error for job in self._failed}
        self._failed.clear()
        ended = [result for ticket in errors if (result := self.cancel(ticket)) is not None]
        return [replace(result, error=errors.get(result.ticket)) for result in [*results, *ended]]

    def _admit(self) -> None:
        """Let waiting requests enter: the first come, as long as rows, memory and this step's share of reading allow."""
        places = self._max_rows - self.running
        if not self._waiting or (self.running and places < min(self._admit_at, len(self._waiting))):
            return  # the usual case, seen without counting what the requests that run will need
        entrants: list[Job] = []
        used = sum(job.width for job in self._jobs())
        reach = max((_reach(job) for job in self._jobs()), default=0)
        sources = max((_source(job) for job in self._jobs()), default=0)
        budget = self._chunk_tokens if self._rows else CALL_TOKENS
        free = self._max_rows - used
        may = free >= self._admit_at or not used or self._waiting_width(free) <= free
        while self._waiting and may:
            job = self._waiting[0][1]
            longest, widest = max(reach, _reach(job)), max(sources, _source(job))
            full = used + job.width > self._max_rows
            bound = self._max_tokens is not None and (used + job.width) * (longest + widest) > self._max_tokens
            if (used and (full or bound)) or (entrants and _source(job) > budget):
                break
            heapq.heappop(self._waiting)
            entrants.append(job)
            used, reach, sources, budget = used + job.width, longest, widest, budget - _source(job)
        if entrants:
            self._enter(entrants)

    def _waiting_width(self, enough: int) -> int:
        """Rows that the waiting requests need, counted no further than beyond `enough`."""
        total = 0
        for _, job in self._waiting:
            total += job.width
            if total > enough:
                break
        return total

    def _enter(self, jobs: list[Job]) -> None:
        # First come first served decides who enters; within the entrants the order is free, and rows of similar length
        # side by side are read together without padding.
        jobs.sort(key=lambda job: job.request.prompt.length)
        self._model.admit([job.request.prompt for job in jobs])
        new = [Entering(self._first_row(job)) for job in jobs]
        if self._model.reads_in_chunks and not self._entering and all(len(entering.left) == 1 for entering in new):
            # The start of an encoder-decoder has the shape of a step: the new rows join the next one.
            self._join(new)
        else:
            self._entering += new

    def _first_row(self, job: Job) -> Row:
        if job.request.options.num_beams > 1:
            search = BeamSearch(job, self._end_tokens, self._model.vocab_size)
            row = Row(job, 0, search)
            row.siblings = [Row(job, slot, search) for slot in range(1, search.width)]
        else:
            row = Row(job)
            row.siblings = [Row(job, place) for place in range(1, job.width)]
        return row

    def _join(self, entering: Sequence[Entering]) -> None:
        """Rows that were being read, at the front of those, take part in the next step."""
        self._rows += [e.row for e in entering]
        self._pending = np.concatenate([self._pending, np.array([e.left[0] for e in entering], np.int64)])
        self._plan = None

    def _read(self) -> list[Result]:
        """Read prompts for one call: several short ones, or a piece of a long one."""
        most = self._chunk_tokens if self._rows else CALL_TOKENS
        start = len(self._rows)
        count = self._reader.begin(self._entering, self._rows, most)
        first = self._entering[0]
        if len(first.left) > most and self._model.reads_in_chunks:
            self._model.read(start, [first.left[:most]])
            del first.left[:most]
            return []
        new, self._entering = self._entering[:count], self._entering[count:]
        plan = Plan([e.row for e in new], self._end_tokens, self._model.vocab_size)
        scores = self._model.read(start, [e.left for e in new], plan.top_k)
        self._join(new)
        return self._settle(start, plan, plan.take(scores))

    def _settle(self, first: int, plan: Plan, turn: Turn) -> list[Result]:
        """Drop rows that are done, of those from `first` on, which `plan` is for, and let new ones begin."""
        for place in turn.gone:
            self._reader.save(plan.rows[place], first + place)
        self._rearrange(first, turn)
        return turn.results

    def _rearrange(self, first: int, turn: Turn) -> None:
        """Move, drop and add rows as a turn of the rows from `first` on asks for."""
        pending = self._pending
        pending[first : first + len(turn.tokens)] = turn.tokens
        if turn.parents is None and not turn.gone and not turn.born:
            return
        count = len(self._rows)
        order = np.arange(count + len(turn.born) - len(turn.gone))
        if turn.parents is not None:
            end = min(first + len(turn.parents), len(order))
            order[first:end] = first + turn.parents[: end - first]
        if turn.gone or turn.born:
            self._recompose(first, turn, order)
        entering = np.arange(count, count + len(self._entering))
        self._model.keep(np.concatenate([order, entering]))

    def _recompose(self, first: int, turn: Turn, order: IntArray) -> None:
        """Fill the places of rows that left with new rows, then with rows from the end, so that few are copied."""
        count, left = len(self._rows), len(order)
        gone = {first + i for i in turn.gone}
        parents = None if turn.parents is None else first + turn.parents
        holes = [i for i in sorted(gone) if i < left] + list(range(count, left))
        movers = [i for i in range(left, count) if i not in gone]
        rows = self._rows[:left] + [self._rows[0]] * (left - count)
        pending = np.resize(self._pending, left) if left > count else self._pending[:left].copy()
        for hole, (source, row, token) in zip(holes, turn.born, strict=False):
            rows[hole], pending[hole], order[hole] = row, token, first + source
        for hole, mover in zip(holes[len(turn.born) :], movers, strict=True):
            at = mover if parents is None or not first <= mover < first + len(parents) else int(parents[mover - first])
            rows[hole], pending[hole], order[hole] = self._rows[mover], self._pending[mover], at
        self._rows, self._pending, self._plan = rows, pending, None

    def _current_plan(self) -> Plan:
        if self._plan is None:
            self._plan = Plan(self._rows, self._end_tokens, self._model.vocab_size)
        return self._plan

    def _jobs(self) -> list[Job]:
        """The requests that have entered, once each."""
        rows = [*self._rows, *(entering.row for entering in self._entering)]
        return list({row.job.ticket: row.job for row in rows}.values())


def run(engine: Engine) -> list[Result]:
    """Step until nothing is left; the results by ticket. What a function of a request raises is raised."""
    results: list[Result] = []
    while not engine.idle:
        results += checked(engine.step())
    return sorted(results, key=lambda result: result.ticket)


def checked(results: Sequence[Result]) -> Sequence[Result]:
    """The results; where one has an error, that is raised."""
    for result in results:
        if result.error is not None:
            raise result.error
    return results


def _reach(job: Job) -> int:
    """Tokens that a row of the request may come to hold: the last one chosen is never given to the model."""
    return len(job.request.prompt.ids) + job.limit - 1


def _source(job: Job) -> int:
    """Tokens of the source, whose keys and values every row of the request holds."""
    return len(job.request.prompt.source or ())
