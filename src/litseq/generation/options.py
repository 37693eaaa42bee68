"""`GenerationOptions`: how to choose tokens and when to stop, in the words of Hugging Face."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from litseq.errors import UsageError
from litseq.generation.plain import is_list, is_whole, plain

_MOST_TOKENS = 2**31 - 1
_MOST_BEAMS = 1024
_MOST_PENALTY = 30
"""Of a length: _MOST_TOKENS to this power is still a float."""


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
    bad_words: Sequence[str | Sequence[int]] = ()
    """Words that do not occur: texts, or lists of token ids. A text is forbidden as it is tokenised at the start of a
    line and behind a space; other spellings of it remain possible."""
    prefix_allowed_tokens: Callable[[Sequence[int]], Sequence[int]] | None = None
    """Called with the output's token ids so far; only the tokens it returns are considered next
    (https://arxiv.org/abs/2010.00904)."""
    prefix: str | Sequence[int] = ()
    """The output begins with this text, or these token ids. They are part of the completion, and neither of
    `max_new_tokens` nor of any score."""
    num_beams: int = 1
    """Above 1: beam search, which keeps this many best beginnings at every step."""
    num_return_sequences: int = 1
    """Completions a prompt: the best ones of a beam search, or as many samples. Where allowed tokens leave a search fewer,
    the others are empty, with a score of -inf."""
    length_penalty: float = 1.0
    """A finished beam of n tokens, the end token included, scores (sum of log-probabilities) / n ** length_penalty:
    above 0 favours long outputs, below 0 short ones; from -30 to 30."""
    early_stopping: bool | Literal["never"] = False
    """When a beam search ends. With F = the worst score among the `num_beams` best finished beams, and once there are as
    many: True: at once. False: when F >= s / n ** length_penalty, where s is the sum of log-probabilities of the best
    running beam and n its length. "never": the same with n = `max_new_tokens` if `length_penalty` is above 0, so that
    the longest possible output has its chance. As in transformers."""
    num_beam_groups: int = 1
    """Diverse beam search (https://arxiv.org/abs/1610.02424): the beams are searched in so many groups, one after the
    other, each avoiding the tokens that those before it chose at the same step."""
    diversity_penalty: float = 0.0
    """Subtracted from a token's log-probability for each beam of an earlier group that chose it at this step."""
    prompt_lookup: bool | None = None
    """Guess the next tokens of a greedy output by looking up how its last ones went on earlier, in the prompt, the output
    or the source, and check the guesses in one step (https://arxiv.org/abs/2304.04487). It changes no token. None: where
    it wins, measured for each request while it runs; True: always; False: never."""

    sampling: bool = field(init=False, repr=False, compare=False, default=False)
    """Whether tokens are sampled; follows from the rest."""

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, plain(getattr(self, item.name)))
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        elif is_list(self.stop):
            object.__setattr__(self, "stop", tuple(self.stop))
        if isinstance(self.bad_words, Sequence) and not isinstance(self.bad_words, str):
            object.__setattr__(self, "bad_words", tuple(plain(word) for word in self.bad_words))
        problems = [*_problems(self)]
        if problems:
            raise UsageError(f"generation options are not usable: {'; '.join(problems)}")
        object.__setattr__(self, "sampling", _samples(self))

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
        return (
            self.repetition_penalty != 1.0
            or self.no_repeat_ngram_size > 0
            or self.min_new_tokens > 0
            or bool(self.bad_words)
            or self.prefix_allowed_tokens is not None
        )

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
            above = isinstance(value, int) and value > maximum
            bounds = f"of at most {maximum}" if above else f"of at least {minimum}"
            found.append(f"{name} is {value!r}, expected an integer {bounds}")

    def number(name: str, minimum: float, maximum: float, bounds: str, open_below: bool = False) -> None:
        value = getattr(options, name)
        if value is None:
            return
        # Compared, since an integer may be too large to be made a float.
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
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
    # By type: 1 == True.
    for name, kinds, expected in (
        ("logprobs", bool, "True or False"),
        ("do_sample", bool | None, "True, False or None"),
        ("prompt_lookup", bool | None, "True, False or None"),
    ):
        if not isinstance(value := getattr(options, name), kinds):
            found.append(f"{name} is {value!r}, expected {expected}")
    if not isinstance(options.stop, tuple) or not all(isinstance(text, str) and text for text in options.stop):
        found.append(f"stop is {options.stop!r}, expected strings that are not empty")
    found += _beam_problems(options, whole, number)
    for name in ("repetition_penalty", "length_penalty", "diversity_penalty"):
        if getattr(options, name) is None:
            found.append(f"{name} is None, expected a number")
    if not isinstance(options.bad_words, tuple) or not all(_is_word(word) for word in options.bad_words):
        found.append(f"bad_words is {options.bad_words!r}, expected texts or lists of token ids that are not empty")
    if not (isinstance(options.prefix, str) or _is_word(options.prefix, may_be_empty=True)):
        found.append(f"prefix is {options.prefix!r}, expected a text or a list of token ids")
    allowed: object = options.prefix_allowed_tokens
    if allowed is not None and not callable(allowed):
        found.append(f"prefix_allowed_tokens is {allowed!r}, expected a function")
    limit = options.max_new_tokens
    if not found and limit is not None and options.min_new_tokens > limit:
        found.append(f"min_new_tokens is {options.min_new_tokens}, more than max_new_tokens {limit}")
    return found


def _beam_problems(
    options: GenerationOptions, whole: Callable[..., None], number: Callable[..., None]
) -> Iterator[str]:
    whole("num_beams", 1, _MOST_BEAMS)
    whole("num_return_sequences", 1, _MOST_BEAMS)
    whole("num_beam_groups", 1, _MOST_BEAMS)
    number("length_penalty", -_MOST_PENALTY, _MOST_PENALTY, f"a number from -{_MOST_PENALTY} to {_MOST_PENALTY}")
    number("diversity_penalty", 0, math.inf, "a number of at least 0")
    early: object = options.early_stopping  # 1 == True, and is none of the three
    if not isinstance(early, bool) and early != "never":
        yield f'early_stopping is {early!r}, expected True, False or "never"'
    beams, count, groups = options.num_beams, options.num_return_sequences, options.num_beam_groups
    if not all(isinstance(value, int) for value in (beams, count, groups)):
        return  # said already
    if beams > 1 and _samples(options):
        yield f"num_beams is {beams} and sampling is asked for, if only by the bundle; give num_beams=1 or temperature=0"
    if beams > 1 and count > beams:
        yield f"num_return_sequences is {count}, more than num_beams {beams}"
    if beams == 1 and count > 1 and not _samples(options):
        yield f"num_return_sequences is {count}, which needs num_beams of at least {count}, or sampling"
    if groups > 1 and (beams % groups or not options.diversity_penalty):
        yield f"num_beam_groups is {groups}, which needs a num_beams that it divides and a diversity_penalty above 0"


def _samples(options: GenerationOptions) -> bool:
    asked = any(v is not None for v in (options.temperature, options.top_k, options.top_p, options.min_p))
    return (asked if options.do_sample is None else options.do_sample) and options.temperature != 0


def _is_word(word: object, may_be_empty: bool = False) -> bool:
    if isinstance(word, str):
        return bool(word)
    if not is_list(word):
        return False
    ids = all(is_whole(i) and int(i) >= 0 for i in word)
    return ids and (may_be_empty or len(word) > 0)
