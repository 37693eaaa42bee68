"""Beam search over the rows of one request.

The same search, token by token, as `transformers` makes: of all continuations of the running beams the best ones are
looked at; those that end and are among the best `num_beams` finish, the best that do not end run on. See
`GenerationOptions.early_stopping` for when it ends and `length_penalty` for how finished beams are compared.

A beam keeps its row of the model while it has a descendant, so that only rows whose parent changed have to be copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray

from litseq.generation import processors
from litseq.generation.row import FinishReason, Job, Result
from litseq.generation.step_model import FloatArray, IntArray, Scores

Alternatives = tuple[tuple[int, float], ...]


@dataclass(slots=True)
class _Beam:
    """The beginning of an output, running or finished."""

    slot: int
    """Of the row that holds it; of a finished one meaningless."""
    tokens: list[int]
    total: float
    """Sum of log-probabilities, as processed; -inf where fewer beginnings exist than beams."""
    log_probs: list[float] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)
    reason: FinishReason | None = None
    score: float = -math.inf
    end: int | None = None
    """The token that ended it, where that is no part of `tokens`."""
    parent: _Beam | None = None
    """What it continues, until its log-probabilities are noted."""


class BeamSearch:
    """One request's beams. `slots` numbers its rows of the model, 0 to `num_beams` - 1."""

    def __init__(self, job: Job, end_tokens: Sequence[int], vocab_size: int) -> None:
        options = job.request.options
        self.job = job
        self.width = options.num_beams
        self.started = False
        """Before the first step the search has one row, which holds the prompt."""
        self.tokens: list[int] = [0] * self.width
        """[slots] the newest token of each row, not yet given to the model."""
        self.parents: list[int] = [0] * self.width
        """[slots] the slot whose row a row continues."""
        self.moved = False
        """Whether some row continues another than itself."""
        self._options = options
        self._end_tokens = [token for token in end_tokens if token < vocab_size]
        self._is_end = frozenset(end_tokens)
        size = self.width // options.num_beam_groups
        self._groups = [_Group(size, range(i * size, (i + 1) * size)) for i in range(options.num_beam_groups)]
        self._told = 0
        self._likeliest: tuple[IntArray, FloatArray] | None = None
        """Of each row, where asked for: the model's likeliest tokens and their log-probabilities."""
        self._wanted = max(2, 1 + len(self._is_end)) * size
        # A later group may lose as many of its best tokens as beams chose before it.
        spared = self.width - size
        self.candidates = min(vocab_size, max(self._wanted + spared, options.top_logprobs))
        """Tokens of each row to look at: enough that `num_beams` of them do not end the output."""
        self.needs_logits = options.processes_logits
        """Whether the likeliest tokens of the model are not the candidates."""
        self.is_plain = not (self.needs_logits or options.wants_logprobs or len(self._groups) > 1)
        """Whether totals and best tokens of the rows are all it looks at, so that searches can be extended together."""

    def order(self) -> list[int]:
        """The slots from the best beam to the worst."""
        return [beam.slot for group in self._groups for beam in group.running] if self.started else [0]

    def extend(self, scores: Scores) -> bool:
        """Take the next step; whether the search is over.

        Args:
            scores: Of the rows in slot order (a single row before the first step).
        """
        ids, log_probs, raw = self._candidates(scores)
        chosen: dict[int, int] = {}
        self._stand_still()
        for group in self._groups:
            if group.done:
                continue
            slots = [beam.slot for beam in group.running] if self.started else [0]
            values = log_probs[slots]
            if chosen:
                penalties = [[chosen.get(token, 0) for token in row] for row in ids[slots].tolist()]
                values = values - self._options.diversity_penalty * np.array(penalties, np.float32)
            totals = np.array([beam.total for beam in group.running] or [0.0])
            best, rows, columns = _best_of(values[None], totals[None], self._wanted)
            if best[0, 0] == -math.inf:  # everything is forbidden: what runs goes no further
                group.done = True
                continue
            at = np.array(slots)[rows[0]], columns[0]
            self._extend_group(group, best[0].tolist(), rows[0].tolist(), ids[at].tolist())
            if self._options.wants_logprobs:
                self._note(group, ids, raw)
            self._forget_parents(group)
            for beam in group.running:
                if len(self._groups) > 1 and beam.total > -math.inf:
                    chosen[beam.tokens[-1]] = chosen.get(beam.tokens[-1], 0) + 1
        return self._end_step()

    def _stand_still(self) -> None:
        self.parents = [*range(self.width)] if self.started else [0] * self.width
        self.moved = False

    def _end_step(self) -> bool:
        self.started = True
        if self.job.request.on_token is not None:
            self._tell()
        return all(group.done for group in self._groups)

    def result(self, reason: FinishReason | None = None) -> Result:
        """The best outputs. With a `reason` the search was ended from outside, and what runs counts as well."""
        found = [beam for group in self._groups for beam in group.finished]
        if reason is not None or not found:
            none_won = not found
            for group in self._groups:
                if group.done and not none_won:
                    continue  # its running beams have lost
                for beam in group.running:
                    if beam.total > -math.inf:
                        beam.score, beam.reason = self._score(beam.total, len(beam.tokens)), "length"
                        found.append(beam)
        if reason is not None:  # also of a finished one: a better one might have come
            for beam in found:
                beam.reason = reason
        found.sort(key=lambda beam: -beam.score)
        results = [self._result(beam) for beam in found[: self._options.num_return_sequences]]
        # Where too much was forbidden there are fewer; outputs of several prompts stand side by side, so none may be missing.
        missing = self._options.num_return_sequences - len(results)
        results += [Result(self.job.ticket, [], reason or "length", -math.inf)] * missing
        self._tell_rest(results[0].tokens)
        first = results[0]
        first_with_others = Result(
            first.ticket, first.tokens, first.finish_reason, first.score, first.log_probs, first.alternatives,
            tuple(results[1:]),
        )  # fmt: skip
        return first_with_others if len(results) > 1 else first

    def _extend_group(self, group: _Group, totals: list[float], rows: list[int], tokens: list[int]) -> None:
        """Go on with the best continuations of one group, best first: of its beam `rows[i]` with `tokens[i]`."""
        running = group.running or [_Beam(0, [], 0.0)]
        length = len(running[0].tokens) + 1
        size, ends, stops = group.size, self._is_end, self.job.request.stops
        at_limit = length >= self.job.limit
        following: list[_Beam] = []
        for rank, (total, row, token) in enumerate(zip(totals, rows, tokens, strict=True)):
            parent = running[row]
            if total == -math.inf:
                if len(following) < size:
                    following.append(_Beam(parent.slot, [*parent.tokens, token], total, parent=parent))
                continue
            reason: FinishReason | None = "eos" if token in ends else None
            if reason is None and stops is not None and self.job.ask(stops, [*parent.tokens, token]):
                reason = "stop"
            if reason is None and at_limit:
                reason = "length"
            if reason is None:
                if len(following) < size:
                    following.append(_Beam(parent.slot, [*parent.tokens, token], total, parent=parent))
                elif rank >= size:
                    break
            elif rank < size:
                said, end = (parent.tokens, token) if reason == "eos" else ([*parent.tokens, token], None)
                score = self._score(total, length)
                group.finished.append(_Beam(0, said, total, reason=reason, score=score, end=end, parent=parent))
        if len(group.finished) > 1:
            group.finished.sort(key=lambda beam: -beam.score)
            del group.finished[size:]
        self._place(group, following)
        group.done = at_limit or self._is_over(group, length)

    def _note(self, group: _Group, ids: IntArray, raw: FloatArray) -> None:
        """Note the log-probabilities of the newest tokens of a group's beams."""
        for beam in [*group.running, *group.finished]:
            if (parent := beam.parent) is None:
                continue
            token = beam.end if beam.end is not None else beam.tokens[-1]
            slot = parent.slot
            (column,) = np.flatnonzero(ids[slot] == token)[:1]
            beam.log_probs = [*parent.log_probs, float(raw[slot, column])]
            if self._likeliest is not None:
                tokens, log_probs = (values[slot].tolist() for values in self._likeliest)
                beam.alternatives = [*parent.alternatives, tuple(zip(tokens, log_probs, strict=True))]

    def _forget_parents(self, group: _Group) -> None:
        for beam in [*group.running, *group.finished]:
            beam.parent = None

    def _score(self, total: float, length: int) -> float:
        return float(total / max(1, length) ** self._options.length_penalty)

    def _is_over(self, group: _Group, length: int) -> bool:
        best = group.running[0].total
        if best == -math.inf:
            return True
        if len(group.finished) < group.size:
            return False
        if self._options.early_stopping is True:
            return True
        hopeful = self._options.early_stopping == "never" and self._options.length_penalty > 0
        possible = self._score(best, self.job.limit if hopeful else length)
        return possible <= group.finished[-1].score

    def _place(self, group: _Group, following: list[_Beam]) -> None:
        """Give each beam a slot: its parent's if no better sibling has it, else one that has no descendant."""
        owners: dict[int, _Beam] = {}
        homeless: list[_Beam] = []
        for beam in following:
            if beam.slot in owners or beam.slot not in group.slots:
                homeless.append(beam)
            else:
                owners[beam.slot] = beam
        missing = group.size - len(following)
        if homeless or missing:
            free = (slot for slot in group.slots if slot not in owners)
            for beam, slot in zip(homeless, free, strict=False):
                self.parents[slot], beam.slot = beam.slot, slot
                owners[slot] = beam
                self.moved = True
            for slot in [slot for slot in group.slots if slot not in owners]:
                # Fewer beginnings exist than beams: what these rows hold is not looked at.
                following.append(_Beam(slot, [*following[0].tokens] if following else [0], -math.inf))
        group.running = following
        for beam in following:
            self.tokens[beam.slot] = beam.tokens[-1]

    def _candidates(self, scores: Scores) -> tuple[IntArray, FloatArray, FloatArray]:
        """Tokens [rows, C], their processed log-probabilities, and the model's own."""
        top_ids, top_log_probs = scores.top_ids, scores.top_log_probs
        wanted, k = self.candidates, self._options.top_logprobs
        if top_ids is not None and top_log_probs is not None and not self.needs_logits:
            log_probs = top_log_probs[:, :wanted]
            if k:
                self._likeliest = top_ids[:, :k], top_log_probs[:, :k]
            return top_ids[:, :wanted], log_probs, log_probs
        raw = scores.logits - processors.log_normalizer(scores.logits)[:, None]
        if k:  # of the model: what is processed below may leave them out of the candidates
            likeliest = best_tokens(raw, k)
            self._likeliest = likeliest, np.take_along_axis(raw, likeliest, -1)
        values = raw
        if self.needs_logits:
            values = raw.copy()
            self._process(values)
        ids = best_tokens(values, wanted)
        return ids, np.take_along_axis(values, ids, -1), np.take_along_axis(raw, ids, -1)

    def _process(self, values: FloatArray) -> None:
        start = np.asarray(self.job.request.prompt.ids, np.int64)
        beams = [beam for group in self._groups for beam in group.running] if self.started else [_Beam(0, [], 0.0)]
        for beam in beams:
            if beam.total > -math.inf:
                context = np.concatenate([start, np.array(beam.tokens, np.int64)])
                self.job.process(values[beam.slot], context, len(beam.tokens), self._end_tokens)

    def _tell(self) -> None:
        """Give the tokens on which all possible outputs agree to whoever listens."""
        on_token = self.job.request.on_token
        if on_token is None:
            return
        possible = [beam.tokens for beam in self._possible()]
        for place in count(self._told):
            agreed = {tokens[place] if place < len(tokens) else None for tokens in possible}
            if len(agreed) != 1 or None in agreed:
                return
            self.job.ask(on_token, agreed.pop() or 0)
            self._told += 1

    def _tell_rest(self, tokens: Sequence[int]) -> None:
        on_token = self.job.request.on_token
        if on_token is not None:
            for token in tokens[self._told :]:
                self.job.ask(on_token, token)
            self._told = len(tokens)

    def _possible(self) -> Iterator[_Beam]:
        none_won = not any(group.finished for group in self._groups)
        for group in self._groups:
            yield from group.finished
            if none_won or not group.done:
                yield from (beam for beam in group.running if beam.total > -math.inf)

    def _result(self, beam: _Beam) -> Result:
        assert beam.reason is not None
        if not self._options.wants_logprobs:
            return Result(self.job.ticket, beam.tokens, beam.reason, beam.score)
        n = len(beam.tokens)
        alternatives = beam.alternatives[:n] if self._options.top_logprobs else None
        return Result(self.job.ticket, beam.tokens, beam.reason, beam.score, beam.log_probs[:n], alternatives)


@dataclass(slots=True)
class _Group:
    """Beams that compete with each other; all of them, unless the search is a diverse one."""

    size: int
    slots: range
    running: list[_Beam] = field(default_factory=list)
    """Best first."""
    finished: list[_Beam] = field(default_factory=list)
    """The best ones, best first, `size` at most."""
    done: bool = False


def extend_together(searches: Sequence[BeamSearch], places: IntArray, scores: Scores) -> list[bool]:
    """`extend` for several plain searches of one width at once; which of them are over.

    Args:
        searches: Searches that have started and are `is_plain`.
        places: [G, num_beams] the rows of each in `scores`, by slot.
        scores: With the likeliest tokens.
    """
    assert scores.top_ids is not None
    assert scores.top_log_probs is not None
    first = searches[0]
    order = np.array([search.order() for search in searches])
    at = np.take_along_axis(places, order, -1)  # [G, num_beams] from the best beam to the worst
    totals = np.array([[beam.total for beam in search._groups[0].running] for search in searches])
    best, rows, columns = _best_of(scores.top_log_probs[at, : first.candidates], totals, first._wanted)
    tokens = scores.top_ids[np.take_along_axis(at, rows, -1), columns]
    over = []
    steps = zip(searches, best.tolist(), rows.tolist(), tokens.tolist(), strict=True)
    for search, best_totals, best_rows, best_ids in steps:
        search._stand_still()
        search._extend_group(search._groups[0], best_totals, best_rows, best_ids)
        search._forget_parents(search._groups[0])
        over.append(search._end_step())
    return over


def _best_of(
    log_probs: FloatArray, totals: NDArray[np.float64], wanted: int
) -> tuple[NDArray[np.float64], IntArray, IntArray]:
    """The best continuations of beams, best first.

    Args:
        log_probs: [G, n, C] of C tokens behind each of n beams, in G searches.
        totals: [G, n] of the beams.
        wanted: How many to find; fewer where there are fewer.

    Returns:
        Their totals, the beam that each continues, and the place of its token among the C; [G, wanted] each.
    """
    flat = (log_probs + totals[:, :, None]).reshape(len(totals), -1)
    best = np.argsort(-flat, axis=-1, kind="stable")[:, :wanted]
    rows, columns = np.divmod(best, log_probs.shape[-1])
    return np.take_along_axis(flat, best, -1), rows, columns


def best_tokens(values: FloatArray, k: int) -> IntArray:
    """[n, k] the best tokens of each row of values [n, V], best first."""
    if k == 1:
        best: IntArray = values.argmax(-1)[:, None]
        return best
    if k < values.shape[-1]:
        candidates = np.argpartition(-values, k - 1, axis=-1)[:, :k]
    else:
        candidates = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, candidates, -1), axis=-1, kind="stable")
    return np.take_along_axis(candidates, order, -1)
