"""A request, the row that works on it, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from litseq.generation.options import GenerationOptions
from litseq.generation.step_model import IntArray, Prompt

FinishReason = Literal["eos", "stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to generate."""

    prompt: Prompt
    options: GenerationOptions = GenerationOptions()  # noqa: RUF009  frozen
    index: int = 0
    """With `options.seed` it fixes the random numbers, so that equal prompts of one call differ."""
    on_token: Callable[[int], bool] | None = None
    """Called with every token as it is chosen, the end token excepted; True ends the request ("stop")."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request."""

    ticket: int
    """The number that `Engine.submit` gave."""
    tokens: list[int]
    """The generated tokens, without the end token."""
    finish_reason: FinishReason
    score: float | None = None
    """Sum of the log-probabilities, the end token's included; None unless they were asked for."""
    log_probs: list[float] | None = None
    """One a token."""
    alternatives: list[tuple[tuple[int, float], ...]] | None = None
    """The likeliest tokens at each step with their log-probabilities, best first."""


class Row:
    """A request while it is running."""

    __slots__ = (
        "_context",
        "_filled",
        "_random",
        "alternatives",
        "limit",
        "log_probs",
        "on_token",
        "options",
        "request",
        "ticket",
        "tokens",
    )

    def __init__(self, ticket: int, request: Request, limit: int) -> None:
        self.ticket = ticket
        self.request = request
        self.options = request.options
        self.on_token = request.on_token
        self.limit = limit
        """Tokens at most."""
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self.alternatives: list[tuple[tuple[int, float], ...]] = []
        self._context: IntArray | None = None
        self._filled = 0
        self._random: np.random.Generator | None = None

    def context(self) -> IntArray:
        """Prompt and output so far; computed into a buffer that grows with the row."""
        prompt = self.request.prompt.ids
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
            seed = np.random.SeedSequence(self.options.seed, spawn_key=(self.request.index,))
            self._random = np.random.Generator(np.random.PCG64(seed))
        return self._random.random()

    def finish(self, reason: FinishReason) -> Result:
        """The result; call once."""
        if not self.options.wants_logprobs:
            return Result(self.ticket, self.tokens, reason)
        n = len(self.tokens)
        return Result(
            self.ticket,
            self.tokens,
            reason,
            score=float(sum(self.log_probs)),
            log_probs=self.log_probs[:n],
            alternatives=self.alternatives[:n] if self.options.top_logprobs else None,
        )
