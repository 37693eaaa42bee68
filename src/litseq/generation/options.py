"""`GenerationOptions`: how to choose tokens and when to stop, in the words of Hugging Face."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from litseq.errors import UsageError

_MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How one request is generated.

    Greedy unless something asks for sampling: `temperature` above 0, or `top_k`, `top_p` or `min_p` (at temperature 1
    when none is given). `temperature=0` is greedy whatever else is given; `do_sample` overrules the guess both ways.

    Raises:
        UsageError: naming everything that is wrong with the values.
    """

    max_new_tokens: int | None = None
    """Tokens at most, the end token included; None: the bundle's default, or whatever fits the model."""
    min_new_tokens: int = 0
    """The end token is not chosen before so many tokens."""
    do_sample: bool | None = None
    """True: sample; False: greedy; None: as the other options say."""
    temperature: float | None = None
    """Logits are divided by it before sampling; lower is safer."""
    top_k: int | None = None
    """Sample among the k most likely tokens (and those equal to the k-th)."""
    top_p: float | None = None
    """Sample among the fewest tokens whose probability sums to at least p (https://arxiv.org/abs/1904.09751)."""
    min_p: float | None = None
    """Drop tokens less likely than min_p times the likeliest (https://arxiv.org/abs/2407.01082)."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens of the prompt and the output less likely (https://arxiv.org/abs/1909.05858)."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size occurs twice; 0 allows it."""
    stop: Sequence[str] = ()
    """Generation ends where one of these strings appears; it is not part of the text."""
    seed: int | None = None
    """With it, sampling gives the same tokens again, whatever else is generated beside it."""
    logprobs: bool = False
    """Return the model's log-probability of each token: before temperature, penalties and filters."""
    top_logprobs: int = 0
    """Return this many likeliest tokens at each step with their log-probabilities; implies `logprobs`."""
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0

    sampling: bool = field(init=False, repr=False, compare=False, default=False)
    """Whether tokens are sampled; follows from the rest."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif isinstance(self.stop, Sequence):
            object.__setattr__(self, "stop", tuple(self.stop))
        problems = [*_problems(self)]
        if problems:
            raise UsageError(f"generation options are not usable: {'; '.join(problems)}")
        asked = any(value is not None for value in (self.temperature, self.top_k, self.top_p, self.min_p))
        wanted = asked if self.do_sample is None else self.do_sample
        object.__setattr__(self, "sampling", wanted and self.temperature != 0)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], base: GenerationOptions | None = None) -> GenerationOptions:
        """`base` (default: the defaults) with `values` in place of its own.

        Raises:
            UsageError: for a name that is no option, with the nearest one.
        """
        known = [item.name for item in fields(cls) if item.init]
        unknown = [name for name in values if name not in known]
        if unknown:
            close = difflib.get_close_matches(unknown[0], known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise UsageError(f"no generation option is called {', '.join(map(repr, unknown))}; {hint}")
        return replace(base or cls(), **values)  # type: ignore[arg-type]  # __post_init__ checks every type

    @property
    def processes_logits(self) -> bool:
        """Whether logits are changed before the choice, so that the best token of the model may not be the one."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram_size > 0 or self.min_new_tokens > 0

    @property
    def wants_logprobs(self) -> bool:
        """Whether log-probabilities are returned."""
        return self.logprobs or self.top_logprobs > 0


def _problems(options: GenerationOptions) -> list[str]:
    found = []

    def whole(name: str, minimum: int, maximum: int = _MOST_TOKENS, optional: bool = False) -> None:
        value = getattr(options, name)
        fits = isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum
        if not fits and not (optional and value is None):
            found.append(f"{name} is {value!r}, expected an integer of at least {minimum}")

    def number(name: str, minimum: float, maximum: float, bounds: str, open_below: bool = False) -> None:
        value = getattr(options, name)
        if value is None:
            return
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not minimum <= value <= maximum or (open_below and value == minimum):
            found.append(f"{name} is {value!r}, expected {bounds}")

    whole("max_new_tokens", 1, optional=True)
    whole("min_new_tokens", 0)
    number("temperature", 0, math.inf, "a number of at least 0")
    whole("top_k", 1, optional=True)
    number("top_p", 0, 1, "a number above 0 and at most 1", open_below=True)
    number("min_p", 0, 1, "a number from 0 to 1")
    number("repetition_penalty", 0, math.inf, "a number above 0", open_below=True)
    whole("no_repeat_ngram_size", 0)
    whole("seed", 0, 2**64 - 1, optional=True)
    whole("top_logprobs", 0, 1000)
    found += [
        f"{name} is {v!r}, expected True or False"
        for name in ("logprobs",)
        if not isinstance(v := getattr(options, name), bool)
    ]
    if options.do_sample not in (None, True, False):
        found.append(f"do_sample is {options.do_sample!r}, expected True, False or None")
    if not isinstance(options.stop, tuple) or not all(isinstance(text, str) and text for text in options.stop):
        found.append(f"stop is {options.stop!r}, expected strings that are not empty")
    for name in ("repetition_penalty", "length_penalty"):
        if getattr(options, name) is None:
            found.append(f"{name} is None, expected a number")
    for name in ("num_beams", "num_return_sequences", "length_penalty"):
        if getattr(options, name) != 1:
            found.append(f"{name} is {getattr(options, name)!r}, and anything but 1 is not supported yet")
    limit = options.max_new_tokens
    if not found and limit is not None and options.min_new_tokens > limit:
        found.append(f"min_new_tokens is {options.min_new_tokens}, more than max_new_tokens {limit}")
    return found
