"""The cases, the most important first, with the targets they were built for (ratios of speed to the best peer)."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Case:
    """One line of the report.

    `measure` says what is timed:
        decode    batch * (new - 1) tokens over T(new) - T(1)
        whole     whole calls: batch * new tokens over T(new)
        first     the prompt: batch * prompt tokens over T(1)
        serve, chat, lookup, file: scenarios of their own, see scenarios.py
    """

    name: str
    shape: str
    precision: str = "fp32"
    measure: str = "decode"
    batch: int = 1
    beams: int = 1
    prompt: int = 32
    new: int = 64
    target: float | None = None
    repeats: int = 3
    bandwidth_target: float | None = None
    """Share of the memory-bandwidth limit that was aimed for."""
    only: tuple[str, ...] | None = None
    """Systems to compare with; None: every one that has the precision."""

    @property
    def group(self) -> str:
        """Cases of a group use the same loaded systems."""
        return f"{self.shape}-{self.precision}"


SINGLE_ROW = 9
"""Rounds of cases of one row: they are over soon, and what they depend on is the memory, which a machine may share."""


def _batches(shape: str, precision: str, targets: tuple[float, ...]) -> list[Case]:
    cases = [
        Case(f"{shape}-{precision}-b{batch}", shape, precision, batch=batch, target=target)
        for batch, target in zip((1, 8, 32), targets, strict=True)
    ]
    return [replace(cases[0], repeats=SINGLE_ROW), *cases[1:]]


def _tiny() -> list[Case]:
    common = {"shape": "tiny", "measure": "whole", "target": 1.0, "repeats": 9}
    cases = [Case(f"tiny-fp32-b{batch}", batch=batch, **common) for batch in (1, 8, 32)]
    return [*cases, Case("tiny-fp32-b8-beam4", batch=8, beams=4, **common)]


def _beam(precision: str, target: float) -> Case:
    return Case(f"base-{precision}-b8-beam4", "base", precision, batch=8, beams=4, target=target)


def _prefill(precision: str, target: float) -> Case:
    name = f"llama-{precision}-prefill512"
    return Case(name, "llama", precision, "first", prompt=512, new=1, target=target, repeats=5)


def _large(precision: str, target: float) -> Case:
    # transformers in fp32 reads these weights with one thread: it would take most of the time and memory of the case.
    peers = ("ctranslate2", "onnxruntime-genai", "llama.cpp")
    return Case(f"1b-{precision}-b1", "1b", precision, new=24, target=target, only=peers)


_FIRST = _batches("llama", "fp32", (1.05, 1.15, 1.1))
_FIRST[0] = replace(_FIRST[0], bandwidth_target=0.75)

CASES = [
    *_FIRST,
    _prefill("fp32", 1.0),
    *_batches("llama", "int8", (1.25, 1.6, 1.9)),
    _prefill("int8", 1.1),
    Case("llama-int4-b1", "llama", "int4", target=1.0, repeats=SINGLE_ROW),
    *_batches("base", "fp32", (1.5, 1.7, 1.25)),
    _beam("fp32", 1.5),
    *_batches("base", "int8", (3.0, 2.3, 1.7)),
    _beam("int8", 1.6),
    *_tiny(),
    *_batches("gpt2", "fp32", (1.3, 1.8, 1.7)),
    *_batches("gpt2", "int8", (2.4, 2.0, 1.6)),
    Case("offline-fp32", "copier", "fp32", "file", target=1.3, repeats=1, only=("ctranslate2",)),
    Case("offline-int8", "copier", "int8", "file", target=1.3, repeats=1, only=("ctranslate2",)),
    Case("continuous-batching", "llama", measure="serve", target=1.5, repeats=1, only=()),
    Case("chat-reuse", "llama", measure="chat", target=4.0, repeats=1, only=()),
    Case("lookup-copying", "chain", measure="lookup", prompt=256, new=192, target=1.8, repeats=3, only=()),
    Case("lookup-not-copying", "chain", measure="lookup", prompt=256, new=192, target=0.97, repeats=9, only=()),
    _large("int8", 1.0),
    _large("int4", 0.9),
    _large("fp32", 1.0),
]  # fmt: skip


def select(patterns: list[str] | None) -> list[Case]:
    """The cases whose names begin with one of the patterns, in the order of importance.

    Raises:
        SystemExit: when a pattern matches nothing.
    """
    if not patterns:
        return CASES
    for pattern in patterns:
        if not any(case.name.startswith(pattern) for case in CASES):
            raise SystemExit(f"no case begins with {pattern!r}; there are {', '.join(c.name for c in CASES)}")
    return [case for case in CASES if any(case.name.startswith(pattern) for pattern in patterns)]
