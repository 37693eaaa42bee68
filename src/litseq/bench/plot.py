"""What `bench` found, as a drawing: SVG written by hand, so that it needs no library and stays sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from litseq.bench.speed import BenchResult, Point

_WIDTH, _HEIGHT = 1000, 470
_PANEL_WIDTH, _PANEL_HEIGHT = 390, 270
_TOP = 120
_COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#475569", "#be123c")
_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_STEPS = [factor * 10.0**power for power in range(-3, 9) for factor in (1, 2, 5)]
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Line:
    """One line of a panel: what was measured, and above it what the machine would allow."""

    name: str
    xs: Sequence[int]
    measured: Sequence[float]
    limit: Sequence[float]


def draw(result: BenchResult) -> str:
    """Two panels: tokens a second when generating, by batch size, and when reading prompts, by length."""
    batches, lengths = (sorted({getattr(point, name) for point in result.points}) for name in ("batch", "length"))
    word = "source" if result.architecture == "encoder-decoder" else "prompt"
    generating = [_line(result, f"{word} of {n}", "batch", {"length": n}, generating=True) for n in lengths]
    reading = [_line(result, f"batch {n}", "length", {"batch": n}, generating=False) for n in batches]
    limits = result.limits
    machine = (
        f"{result.cpu}, {limits.threads} threads: memory {limits.bandwidth / 1e9:.1f} GB/s, matrix products "
        f"{limits.float_operations / 1e9:,.0f} GFLOP/s float32, {limits.integer_operations / 1e9:,.0f} GOP/s int8"
    )
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}' {_FONT}>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='white'/>",
        _text(60, 38, result.bundle, 20, _INK, weight=600),
        _text(60, 60, machine, 12, _MUTED),
        _text(60, 77, f"{versions}. Solid: measured. Dashed: what the machine's limits allow.", 12, _MUTED),
        *_panel(60, "Generating: tokens a second, by batch size", generating),
        *_panel(560, f"Reading the {word}s: tokens a second, by their length", reading),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _line(result: BenchResult, name: str, along: str, fixed: dict[str, int], *, generating: bool) -> Line:
    points = [p for p in result.points if all(getattr(p, key) == value for key, value in fixed.items())]
    points.sort(key=lambda point: getattr(point, along))
    measured = [p.tokens_per_second if generating else _read_speed(p) for p in points]
    shares = [p.step_share if generating else p.prompt_share for p in points]
    limit = [speed / share if share else speed for speed, share in zip(measured, shares, strict=True)]
    return Line(name, [getattr(point, along) for point in points], measured, limit)


def _read_speed(point: Point) -> float:
    if point.encoder_seconds:
        return point.batch * point.length / point.encoder_seconds
    return point.prompt_tokens_per_second


def _panel(left: int, title: str, lines: Sequence[Line]) -> list[str]:
    """Axes with logarithmic scales, the lines, and their names behind their ends."""
    bottom, right = _TOP + _PANEL_HEIGHT, left + _PANEL_WIDTH
    xs = sorted({x for line in lines for x in line.xs})
    values = [value for line in lines for value in (*line.measured, *line.limit)]
    low, high = _round_below(min(values)), _round_above(max(values))
    x_scale = _Scale(xs[0], xs[-1], left + 30, right - 90)
    y_scale = _Scale(low, high, bottom, _TOP)
    parts = [_text(left, _TOP - 16, title, 14, _INK, weight=600)]
    for tick in _ticks(low, high):
        y = y_scale(tick)
        parts.append(f"<line x1='{left}' x2='{right - 70}' y1='{y:.1f}' y2='{y:.1f}' stroke='{_GRID}'/>")
        parts.append(_text(left - 8, y + 4, _short(tick), 11, _MUTED, anchor="end"))
    for x in xs:
        parts.append(_text(x_scale(x), bottom + 20, f"{x}", 11, _MUTED, anchor="middle"))
    places: list[float] = []
    for colour, line in zip(_cycle(len(lines)), lines, strict=True):
        drawn = [(x_scale(x), y_scale(value)) for x, value in zip(line.xs, line.measured, strict=True)]
        bound = [(x_scale(x), y_scale(value)) for x, value in zip(line.xs, line.limit, strict=True)]
        parts.append(_path(bound, colour, "stroke-width='1.5' stroke-dasharray='5 4' opacity='0.55'"))
        parts.append(_path(drawn, colour, "stroke-width='2.5' stroke-linejoin='round'"))
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in drawn]
        places.append(drawn[-1][1])
    for colour, line, y in zip(_cycle(len(lines)), lines, _spread(places, 15), strict=True):
        parts.append(_text(right - 78, y + 4, line.name, 12, colour, weight=600))
    return parts


@dataclass(frozen=True)
class _Scale:
    """A logarithmic scale from values to places; a single value stands in the middle."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return (self.first + self.last) / 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.first + share * (self.last - self.first)


def _round_below(value: float) -> float:
    """1, 2 or 5 times a power of ten, at most `value`."""
    return max((step for step in _STEPS if step <= value), default=_STEPS[0])


def _round_above(value: float) -> float:
    """1, 2 or 5 times a power of ten, at least `value`."""
    return min((step for step in _STEPS if step >= value), default=_STEPS[-1])


def _ticks(low: float, high: float) -> list[float]:
    inside = [step for step in _STEPS if low <= step <= high]
    # More than eight lines are a fence: powers of ten, and the ends.
    return inside if len(inside) <= 9 else [s for s in inside if math.log10(s) % 1 < 1e-9 or s in (low, high)]


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved apart until no two are closer than `gap`."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved = list(places)
    for _ in range(50):
        for a, b in pairwise(order):
            if (overlap := gap - (moved[b] - moved[a])) > 0:
                moved[a] -= overlap / 2
                moved[b] += overlap / 2
    return moved


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _path(points: Sequence[tuple[float, float]], colour: str, style: str) -> str:
    where = " L ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f"<path d='M {where}' fill='none' stroke='{colour}' {style}/>"


def _text(x: float, y: float, text: str, size: int, colour: str, *, weight: int = 400, anchor: str = "start") -> str:
    shown = escape("".join(character if character.isprintable() else " " for character in text))
    style = f"font-size='{size}' fill='{colour}' font-weight='{weight}' text-anchor='{anchor}'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{shown}</text>"


def _short(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"
