"""What the rows of one call do with their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from litseq.generation.beams import BeamSearch, extend_together
from litseq.generation.choice import NOTHING, Chooser
from litseq.generation.row import FinishReason, Result, Row
from litseq.generation.step_model import IntArray, Scores


@dataclass(slots=True)
class Turn:
    """What became of the rows of one call; places are theirs within it."""

    tokens: IntArray
    """[n] the newest token of each row."""
    parents: IntArray | None = None
    """[n] the row that each continues; None: each itself."""
    gone: list[int] = field(default_factory=list)
    """Rows that are done."""
    born: list[tuple[int, Row, int]] = field(default_factory=list)
    """New rows: the row that each continues, and its newest token."""
    results: list[Result] = field(default_factory=list)


class Plan:
    """How a set of rows chooses its tokens; made anew whenever the set changes."""

    def __init__(self, rows: Sequence[Row], end_tokens: Sequence[int], vocab_size: int) -> None:
        self._rows = list(rows)
        self._end_tokens = frozenset(end_tokens)
        self._vocab_size = vocab_size
        self.is_greedy = all(row.is_plain for row in rows)
        """Whether every row takes the likeliest token, and nothing else is asked for."""
        self.top_k = 0
        """How many best tokens the model is asked for."""
        self._parting: list[int] = []
        self._searches: list[tuple[BeamSearch, IntArray]] = []
        self._together: dict[int, tuple[list[BeamSearch], IntArray]] = {}
        if not self.is_greedy:
            self._lay_out(end_tokens)

    def _lay_out(self, end_tokens: Sequence[int]) -> None:
        rows = self._rows
        plain = [i for i, row in enumerate(rows) if row.search is None]
        self._plain = np.array(plain, np.int64)
        self._chooser = Chooser([rows[i] for i in plain], sorted(end_tokens), self._vocab_size)
        self._parting = [i for i in plain if rows[i].siblings]
        places: dict[int, list[tuple[int, int]]] = {}
        for i, row in enumerate(rows):
            if row.search is not None:
                places.setdefault(row.job.ticket, []).append((row.place, i))
        for found in places.values():
            search = rows[found[0][1]].search
            assert search is not None
            self._searches.append((search, np.array([i for _, i in sorted(found)], np.int64)))
        for width in {search.width for search, _ in self._searches}:
            alike = [(s, at) for s, at in self._searches if s.started and s.is_plain and s.width == width]
            if alike:
                self._together[width] = [search for search, _ in alike], np.stack([at for _, at in alike])
        asked = (search.candidates for search, _ in self._searches if not search.needs_logits)
        self.top_k = max(self._chooser.top_k, *asked, 0)

    @property
    def rows(self) -> Sequence[Row]:
        """The rows, in the order of the scores."""
        return self._rows

    def take(self, scores: Scores) -> Turn:
        """Choose the next token of every row and note it."""
        if not self._searches and not self._parting:
            best = scores.top_ids
            if self.is_greedy:
                tokens: IntArray = scores.logits.argmax(-1) if best is None else best[:, 0]
            else:
                tokens = self._chooser.choose(scores)
            turn = Turn(tokens)
            self._record(turn, range(len(self._rows)))
            return turn
        turn = Turn(np.zeros(len(self._rows), np.int64))
        if len(self._plain):
            siblings = [(i, self._sibling_tokens(self._rows[i], scores, i)) for i in self._parting]
            turn.tokens[self._plain] = self._chooser.choose(_pick(scores, self._plain))
            self._record(turn, self._plain.tolist())
            for i, first in siblings:
                self._part(turn, i, first)
            self._parting = []
        for search, places in self._single(scores):
            self._apply(turn, search, places, search.extend(_pick(scores, places, top_only=not search.needs_logits)))
        for searches, grid in self._together.values() if scores.top_ids is not None else ():
            for search, places, over in zip(searches, grid, extend_together(searches, grid, scores), strict=True):
                self._apply(turn, search, places, over)
        return turn

    def _single(self, scores: Scores) -> list[tuple[BeamSearch, IntArray]]:
        """The searches that are extended one by one."""
        if scores.top_ids is None:
            return self._searches
        return [(s, places) for s, places in self._searches if not (s.started and s.is_plain)]

    def accept(self, row: Row, token: int) -> FinishReason | None:
        """Note a token of a plain row; why the row ends with it, if it does."""
        if token in self._end_tokens:
            return "eos"
        if token == NOTHING:
            return "length"
        row.tokens.append(token)
        if row.on_token is not None and row.job.ask(row.on_token, token):
            return "stop"
        return "length" if len(row.tokens) >= row.limit else None

    def _record(self, turn: Turn, places: Sequence[int]) -> None:
        """Note the tokens of plain rows."""
        tokens = turn.tokens.tolist()
        for i in places:
            if (reason := self.accept(self._rows[i], tokens[i])) is not None:
                self.end(turn, i, reason)

    def end(self, turn: Turn, place: int, reason: FinishReason) -> None:
        """Let a plain row leave."""
        row = self._rows[place]
        turn.gone.append(place)
        if (result := row.job.finish(row.place, row.finish(reason))) is not None:
            turn.results.append(result)

    def _sibling_tokens(self, row: Row, scores: Scores, place: int) -> IntArray:
        """The first tokens of rows that begin where `row` does, each drawn for itself from the same scores."""
        chooser = Chooser(row.siblings, sorted(self._end_tokens), self._vocab_size)
        # Copies, of one sibling too: to choose changes logits, and the row itself is yet to be chosen for.
        return chooser.choose(Scores(scores.logits[np.full(len(row.siblings), place)]))

    def _part(self, turn: Turn, place: int, tokens: IntArray) -> None:
        row = self._rows[place]
        siblings, row.siblings = row.siblings, []
        for sibling, token in zip(siblings, tokens.tolist(), strict=True):
            reason = self.accept(sibling, token)
            if reason is None:
                turn.born.append((place, sibling, token))
            elif (result := row.job.finish(sibling.place, sibling.finish(reason))) is not None:
                turn.results.append(result)

    def _apply(self, turn: Turn, search: BeamSearch, places: IntArray, over: bool) -> None:
        """Note what a search made of its step."""
        if over:
            turn.gone += places.tolist()
            turn.results.append(search.result())
        elif len(places) == search.width:
            turn.tokens[places] = search.tokens
            if search.moved:
                if turn.parents is None:
                    turn.parents = np.arange(len(self._rows))
                turn.parents[places] = places[search.parents]
        else:  # the first step: the row of the prompt becomes as many as there are beams
            place = int(places[0])
            row = self._rows[place]
            turn.tokens[place] = search.tokens[0]
            turn.born += [(place, sibling, search.tokens[sibling.place]) for sibling in row.siblings]
            row.siblings = []


def _pick(scores: Scores, places: IntArray, *, top_only: bool = False) -> Scores:
    """The scores of some rows; with `top_only` nobody looks at the logits where the likeliest tokens are given."""
    if top_only and scores.top_ids is not None and scores.top_log_probs is not None:
        return Scores(scores.logits[:0], scores.top_ids[places], scores.top_log_probs[places])
    if len(places) == len(scores.logits) and (places == np.arange(len(places))).all():
        return scores
    if scores.top_ids is None or scores.top_log_probs is None:
        return Scores(scores.logits[places])
    return Scores(scores.logits[places], scores.top_ids[places], scores.top_log_probs[places])
