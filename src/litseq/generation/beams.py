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

from litseq.generation import processors
from litseq.generation.row import FinishReason, Job, Result
from litseq.generation.step_model import FloatArray, IntArray, Scores

Alternatives = tuple[tuple[int, float], ...]


@dataclass(slots=True)
class _Beam:
    """The beginning of an output, running or finished."""

    slot: int
    tokens: list[int]
    total: float
    """Sum of log-probabilities, as processed; -inf where fewer beginnings exist than beams."""
    log_probs: list[float] = field(default_factory=list)
    alternatives: list[Alternatives] = field(default_factory=list)
    reason: FinishReason | None = None
    score: float = -math.inf


class BeamSearch:
    """One request's beams. `slots` numbers its rows of the model, 0 to `num_beams` - 1."""

    def __init__(self, job: Job, end_tokens: Sequence[int], vocab_size: int) -> None:
        options = job.request.options
        self.job = job
        self.width = options.num_beams
        self.started = False
        """Before the first step the search has one row, which holds the prompt."""
        self.tokens: IntArray = np.zeros(self.width, np.int64)
        """[slots] the newest token of each row, not yet given to the model."""
        self.parents: list[int] = [0] * self.width
        """[slots] the slot whose row a row continues."""
        self._options = options
        self._end_tokens = [token for token in end_tokens if token < vocab_size]
        self._is_end = frozenset(end_tokens)
        self._vocab_size = vocab_size
        size = self.width // options.num_beam_groups
        self._groups = [_Group(size, range(i * size, (i + 1) * size)) for i in range(options.num_beam_groups)]
        self._told = 0

    @property
    def candidates(self) -> int:
        """Tokens of each row to look at: enough that `num_beams` of them do not end the output."""
        size = self._groups[0].size
        # A later group may lose as many of its best tokens as beams chose before it.
        spared = self.width - size if len(self._groups) > 1 else 0
        wanted = max(2, 1 + len(self._is_end)) * size + spared
        return min(self._vocab_size, max(wanted, self._options.top_logprobs))

    @property
    def needs_logits(self) -> bool:
        """Whether the likeliest tokens of the model are not the candidates."""
        return self._options.processes_logits

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
        self.parents = [*range(self.width)] if self.started else [0] * self.width
        for group in self._groups:
            slots = [beam.slot for beam in group.running] if self.started else [0]
            values = log_probs[slots]
            if chosen:
                penalties = [[chosen.get(token, 0) for token in row] for row in ids[slots].tolist()]
                values = values - self._options.diversity_penalty * np.array(penalties, np.float32)
            self._extend_group(group, slots, ids, values, raw)
            for beam in group.running:
                if len(self._groups) > 1 and beam.total > -math.inf:
                    chosen[beam.tokens[-1]] = chosen.get(beam.tokens[-1], 0) + 1
        self.started = True
        self._tell()
        return all(group.done for group in self._groups)

    def result(self, reason: FinishReason | None = None) -> Result:
        """The best outputs. With a `reason` the search was ended from outside, and what runs counts as well."""
        found = [beam for group in self._groups for beam in group.finished]
        if reason is not None or not found:
            running = [beam for group in self._groups for beam in group.running if beam.total > -math.inf]
            for beam in running:
                beam.score, beam.reason = self._score(beam.total, len(beam.tokens)), reason or "length"
            found += running
        found.sort(key=lambda beam: -beam.score)
        results = [self._result(beam) for beam in found[: self._options.num_return_sequences]]
        if not results:  # everything was forbidden from the first token on
            results = [Result(self.job.ticket, [], reason or "length", -math.inf)]
        self._tell_rest(results[0].tokens)
        first = results[0]
        first_with_others = Result(
            first.ticket, first.tokens, first.finish_reason, first.score, first.log_probs, first.alternatives,
            tuple(results[1:]),
        )  # fmt: skip
        return first_with_others if len(results) > 1 else first

    def _extend_group(
        self, group: _Group, slots: list[int], ids: IntArray, values: FloatArray, raw: FloatArray
    ) -> None:
        """Choose among the continuations of one group's beams; `values` [len(slots), C]."""
        if group.done:
            return
        running = group.running or [_Beam(0, [], 0.0)]
        totals = values.astype(np.float64) + np.array([beam.total for beam in running])[:, None]
        flat = totals.ravel()
        wanted = min(max(2, 1 + len(self._is_end)) * group.size, len(flat))
        best = np.argsort(-flat, kind="stable")[:wanted].tolist()
        width = values.shape[1]
        length = len(running[0].tokens) + 1
        following: list[tuple[_Beam, int]] = []  # beams that run on, with the slot of their parent
        for rank, place in enumerate(best):
            total = float(flat[place])
            row, column = divmod(place, width)
            if len(following) >= group.size and (rank >= group.size or total == -math.inf):
                break
            parent, slot = running[row], slots[row]
            token = int(ids[slot, column])
            beam = self._grow(parent, token, total, float(raw[slot, column]), slot, ids, raw)
            reason = self._ending(beam, length) if total > -math.inf else None
            if reason is None:
                if len(following) < group.size:
                    following.append((beam, slot))
            elif rank < group.size:
                beam.reason, beam.score = reason, self._score(total, length)
                if reason == "eos":
                    beam.tokens.pop()
                group.finished.append(beam)
        group.finished = sorted(group.finished, key=lambda beam: -beam.score)[: group.size]
        self._place(group, following)
        group.done = length >= self.job.limit or self._is_over(group, length)

    def _grow(
        self, parent: _Beam, token: int, total: float, log_prob: float, slot: int, ids: IntArray, raw: FloatArray
    ) -> _Beam:
        beam = _Beam(parent.slot, [*parent.tokens, token], total)
        if self._options.wants_logprobs:
            beam.log_probs = [*parent.log_probs, log_prob]
            if k := self._options.top_logprobs:
                order = np.argsort(-raw[slot], kind="stable")[:k]
                pairs = tuple(zip(ids[slot, order].tolist(), raw[slot, order].tolist(), strict=True))
                beam.alternatives = [*parent.alternatives, pairs]
        return beam

    def _ending(self, beam: _Beam, length: int) -> FinishReason | None:
        if beam.tokens[-1] in self._is_end:
            return "eos"
        stops = self.job.request.stops
        if stops is not None and stops(beam.tokens):
            return "stop"
        return "length" if length >= self.job.limit else None

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

    def _place(self, group: _Group, following: list[tuple[_Beam, int]]) -> None:
        """Give each beam a slot: its parent's if no better sibling has it, else one that has no descendant."""
        taken: set[int] = set()
        homeless: list[tuple[_Beam, int]] = []
        for beam, parent in following:
            if parent in taken or parent not in group.slots:
                homeless.append((beam, parent))
            else:
                taken.add(parent)
                beam.slot = parent
        free = (slot for slot in group.slots if slot not in taken)
        for beam, parent in homeless:
            beam.slot = next(free)
            self.parents[beam.slot] = parent
        group.running = [beam for beam, _ in following]
        for slot in free:  # fewer beginnings exist than beams: what these rows hold is not looked at
            best = following[0][0] if following else _Beam(0, [self._end_tokens[0] if self._end_tokens else 0], 0.0)
            group.running.append(_Beam(slot, best.tokens, -math.inf, best.log_probs, best.alternatives))
        for beam in group.running:
            self.tokens[beam.slot] = beam.tokens[-1]

    def _candidates(self, scores: Scores) -> tuple[IntArray, FloatArray, FloatArray]:
        """Tokens [rows, C], their processed log-probabilities, and the model's own."""
        top_ids, top_log_probs = scores.top_ids, scores.top_log_probs
        wanted = self.candidates
        if top_ids is not None and top_log_probs is not None and not self.needs_logits:
            log_probs = top_log_probs[:, :wanted]
            return top_ids[:, :wanted], log_probs, log_probs
        raw = scores.logits - processors.log_normalizer(scores.logits)[:, None]
        values = raw
        if self.needs_logits:
            values = raw.copy()
            self._process(values)
        ids = best_tokens(values, wanted)
        return ids, np.take_along_axis(values, ids, -1), np.take_along_axis(raw, ids, -1)

    def _process(self, values: FloatArray) -> None:
        prompt = self.job.request.prompt
        start = np.asarray(prompt.ids, np.int64)
        beams = [beam for group in self._groups for beam in group.running] if self.started else [_Beam(0, [], 0.0)]
        for beam in beams:
            if beam.total > -math.inf:
                context = np.concatenate([start, np.array(beam.tokens, np.int64)])
                new, row = len(beam.tokens), values[beam.slot]
                processors.process(row, context, new, prompt.forced, self._options, self._end_tokens)

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
            on_token(agreed.pop() or 0)
            self._told += 1

    def _tell_rest(self, tokens: Sequence[int]) -> None:
        on_token = self.job.request.on_token
        if on_token is not None:
            for token in tokens[self._told :]:
                on_token(token)
            self._told = len(tokens)

    def _possible(self) -> Iterator[_Beam]:
        for group in self._groups:
            yield from group.finished
            if not group.done:
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
