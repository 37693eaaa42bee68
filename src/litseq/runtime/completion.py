"""What the runtime gives back."""

from __future__ import annotations

from dataclasses import dataclass

from litseq.generation import FinishReason


@dataclass(frozen=True, slots=True)
class Completion:
    """The output for one prompt."""

    text: str
    """Decoded output, without the prompt, special tokens, and the stop string that ended it."""
    token_ids: list[int]
    """The output's tokens without the end token: a `prefix`, then those generated. They may spell a stop string at the end."""
    finish_reason: FinishReason
    """"eos": the model ended it; "stop": a stop string; "length": `max_new_tokens`, the model's limit, or the options
    forbid every token that could come next."""
    score: float | None = None
    """Sum of the log-probabilities, the end token's included; with `logprobs=True`. Of a beam search always given, and divided by
    length ** length_penalty."""
    logprobs: list[float] | None = None
    """The model's log-probability of each generated token; with `logprobs=True`."""
    top_logprobs: list[tuple[tuple[int, float], ...]] | None = None
    """The likeliest tokens of each step and their log-probabilities, best first; with `top_logprobs=k`."""


@dataclass(frozen=True, slots=True)
class TargetScore:
    """How likely the model finds a given output."""

    score: float
    """Sum of `logprobs`."""
    token_ids: list[int]
    """The tokens that were scored, the end token included for a text."""
    logprobs: list[float]
    """The log-probability of each token, given the prompt and the tokens before it."""
