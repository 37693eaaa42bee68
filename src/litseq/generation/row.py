"""A request, the rows that work on it, and its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from litseq.generation import processors
from litseq.generation.options import GenerationOptions
from litseq.generation.step_model import FloatArray, IntArray, Prompt

if TYPE_CHECKING:
    from litseq.generation.beams import BeamSearch

FinishReason = Literal["eos", "stop", "length", "cancelled"]
_Argument = TypeVar("_Argument")


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue."""

    prompt: Prompt
    options: GenerationOptions = GenerationOptions()  # noqa: RUF009  frozen
    index: int = 0
    """With `options.seed` it fixes the random numbers, so that equal prompts of one call differ."""
    on_token: Callable[[int], bool] | None = None
    """Called with every token as soon as it is certain, the end token excepted; True ends the request ("stop"). In a beam
    search a token is certain when all beams agree on it, and the answer is not looked at."""
    stops: Callable[[Sequence[int]], bool] | None = None
    """Where one listener is not enough, for beams and several samples: whether an output, given by its token ids, is
    complete ("stop")."""
    priority: int = 0
    """Requests of a lower number enter first; among equals, first come first served."""
    keep: bool = False
    """Keep what was read and said for later requests that begin with it, where the loop has a store for that."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request."""

    ticket: int
    """The number that `Engine.submit` gave."""
    tokens: list[int]
    """The generated tokens, without the end token and a forced beginning."""
    finish_reason: FinishReason
    score: float | None = None
    """Sum of the log-probabilities, the end token's included; None unless they were asked for. Of a beam search always
    given, divided by length ** length_penalty."""
    log_probs: list[float] | None = None
    """One a token."""
    alternatives: list[tuple[tuple[int, float], ...]] | None = None
    """The likeliest tokens at each step with their log-probabilities, best first."""
    others: tuple[Result, ...] = ()
    """With `num_return_sequences`: the other sequences, the next best first."""
    error: Exception | None = None
    """What a function of the request raised, which ended it."""


class Job:
    """A request on its way: it waits, its prompt is read, its rows generate, and the last row to finish ends it."""

    __slots__ = ("_failed", "_left", "_results", "error", "limit", "request", "ticket")

    def __init__(self, ticket: int, request: Request, limit: int, failed: list[Job]) -> None:
        self._failed = failed
        """Where it notes itself when one of the request's functions raises."""
        self.error: Exception | None = None
        self.ticket = ticket
        self.request = request
        self.limit = limit
        """Tokens at most."""
        sampled = request.options.num_beams == 1
        self._left = request.options.num_return_sequences if sampled else 1
        self._results: dict[int, Result] = {}

    @property
    def width(self) -> int:
        """Rows it needs at the same time."""
        options = self.request.options
        return options.num_beams if options.num_beams > 1 else options.num_return_sequences

    @property
    def order(self) -> tuple[int, int]:
        """Who enters first."""
        return self.request.priority, self.ticket

    def cancelled(self) -> Result:
        """The result of a request that ends before it has begun."""
        nothing = Result(self.ticket, [], "cancelled")
        others = (nothing,) * (self.request.options.num_return_sequences - 1)
        return replace(nothing, others=others) if others else nothing

    def ask(self, function: Callable[[_Argument], bool], argument: _Argument) -> bool:
        """What a function of the request answers; one that raises ends this request and no other."""
        if self.error is None:
            try:
                return function(argument)
            except Exception as error:  # whatever it is: it is not ours, and comes out with the result
                self._fail(error)
        return False

    def process(self, values: FloatArray, context: IntArray, new: int, end_tokens: Sequence[int]) -> None:
        """`processors.process` with what the request asks for, some of which is a function of its own."""
        if self.error is None:
            forced = self.request.prompt.forced
            try:
                processors.process(values, context, new, forced, self.request.options, end_tokens)
            except Exception as error:  # as in `ask`
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.error = error
        self._failed.append(self)

    def finish(self, place: int, result: Result) -> Result | None:
        """Note that one of its sequences is done; the result of all when it was the last."""
        self._results[place] = result
        self._left -= 1
        if self._left:
            return None
        first, *others = (self._results[i] for i in sorted(self._results))
        return replace(first, others=tuple(others)) if others else first


class Row:
    """A row of the model that generates."""

    __slots__ = (
        "_context",
        "_filled",
        "_random",
        "alternatives",
        "is_plain",
        "job",
        "limit",
        "log_probs",
        "on_token",
        "options",
        "place",
        "search",
        "siblings",
        "tokens",
    )

    def __init__(self, job: Job, place: int = 0, search: BeamSearch | None = None) -> None:
        self.job = job
        self.options = job.request.options
        self.on_token = job.request.on_token if place == 0 and search is None else None
        stops = job.request.stops
        if self.on_token is None and stops is not None:
            self.on_token = lambda _: stops(self.tokens)
        self.limit = job.limit
        self.place = place
        """Which of the job's rows it is; in a beam search the search's slot."""
        self.search = search
        """The beam search that it is a row of; such a row holds nothing itself."""
        options = self.options
        self.is_plain = search is None and not (options.sampling or options.processes_logits or options.wants_logprobs)
        """Whether it takes the likeliest token and nothing else is asked for."""
        self.siblings: list[Row] = []
        """Rows that begin where this one does, and are made when the first token is chosen."""
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.alternatives: list[tuple[tuple[int, float], ...]] = []
        self._context: IntArray | None = None
        self._filled = 0
        self._random: np.random.Generator | None = None

    def context(self) -> IntArray:
        """Prompt and output so far; computed into a buffer that grows with the row."""
        prompt = self.job.request.prompt.ids
        length = len(prompt) + len(self.tokens)
        if self._context is None or len(self._context) < length:
            self._context = np.empty(2 * length + 16, np.int64)
            self._context[: len(prompt)] = prompt
            self._filled = len(prompt)
        self._context[self._filled : length] = self.tokens[self._filled - len(prompt) :]
        self._filled = length
        return self._context[:length]

    def uniform(self) -> float:
        """The row's next random number in [0, 1): its own stream, whoever runs beside it."""
        if self._random is None:
            key = (self.job.request.index, self.place) if self.place else (self.job.request.index,)
            seed = np.random.SeedSequence(self.options.seed, spawn_key=key)
            self._random = np.random.Generator(np.random.PCG64(seed))
        return self._random.random()

    def finish(self, reason: FinishReason) -> Result:
        """The result of this row; call once."""
        if not self.options.wants_logprobs:
            return Result(self.job.ticket, self.tokens, reason)
        n = len(self.tokens)
        return Result(
            self.job.ticket,
            self.tokens,
            reason,
            score=float(sum(self.log_probs)),
            log_probs=self.log_probs[:n],
            alternatives=self.alternatives[:n] if self.options.top_logprobs else None,
        )
