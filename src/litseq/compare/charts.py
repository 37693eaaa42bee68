"""Charts as inline SVG: no library, no script, no network; colours come from the page, so that they follow light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT = 480, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 46


@dataclass
class Series:
    """A line, or a group of points, in the colour of its arm."""

    label: str
    colour: int
    points: list[tuple[float, float]]
    dashed: bool = False


@dataclass
class Estimate:
    """A value with its interval, and the single values it is the mean of."""

    label: str
    colour: int
    value: float
    low: float
    high: float
    singles: list[float] = field(default_factory=list)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A number for an axis: 1500000 -> 1.5M."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def line_chart(series: Sequence[Series], x_label: str, y_label: str, title: str) -> str:
    """Lines over a shared plane; the highest tenth of a falling curve's start is cut off, so that its end can be read."""
    points = [point for one in series for point in one.points if all(map(math.isfinite, point))]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], sorted(y for _, y in points)
    top = ys[min(len(ys) - 1, int(0.92 * len(ys)))]
    low, high = _padded(ys[0], top)
    plane = _Plane(0.0, max(xs) or 1.0, low, high)
    body = [plane.frame(x_label, y_label)]
    for one in series:
        inside = [(x, min(y, high)) for x, y in sorted(one.points) if math.isfinite(y)]
        path = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in inside)
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        body.append(
            f'<polyline class="line c{one.colour}" points="{path}"{dash}><title>{escape(one.label)}</title></polyline>'
        )
        if inside:
            body.append(
                _dot(
                    plane.x(inside[-1][0]), plane.y(inside[-1][1]), one.colour, f"{one.label}: {one.points[-1][1]:.4g}"
                )
            )
    return _svg(body, title)


def interval_chart(estimates: Sequence[Estimate], x_label: str, title: str, zero: bool = False) -> str:
    """A row for each value: its interval as a bar, single seeds as hollow dots."""
    everything = [v for e in estimates for v in (e.low, e.high, e.value, *e.singles)] + ([0.0] if zero else [])
    low, high = _padded(min(everything), max(everything))
    height = _TOP + 44 * len(estimates) + _BOTTOM
    left = 24
    scale = _scale(low, high, left, _WIDTH - 24)
    body = []
    for tick in ticks(low, high):
        x = scale(tick)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        body.append(
            f'<text class="tick" x="{x:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{short(tick)}</text>'
        )
    if zero:
        body.append(f'<line class="axis" x1="{scale(0):.1f}" x2="{scale(0):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
    for row, one in enumerate(estimates):
        y = _TOP + 44 * row + 30
        hint = f"{one.label}: {one.value:.4g} ({one.low:.4g} to {one.high:.4g})"
        body.append(f'<text class="name" x="{left}" y="{y - 14}">{escape(one.label)}</text>')
        body.append(
            f'<line class="bar c{one.colour}" x1="{scale(one.low):.1f}" x2="{scale(one.high):.1f}" y1="{y}" y2="{y}"/>'
        )
        body += [f'<circle class="single c{one.colour}" cx="{scale(v):.1f}" cy="{y}" r="4"/>' for v in one.singles]
        body.append(_dot(scale(one.value), y, one.colour, hint))
    body.append(f'<text class="tick" x="{_WIDTH / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>')
    return _svg(body, title, height)


def grouped_chart(groups: Sequence[tuple[str, Sequence[Estimate]]], y_label: str, title: str, bars: bool = True) -> str:
    """Bars from zero, or points with intervals, side by side in named groups."""
    values = [v for _, estimates in groups for e in estimates for v in (e.value, e.low, e.high)]
    if not values:
        return ""
    low, high = (0.0, max(values) * 1.06 or 1.0) if bars else _padded(min(values), max(values))
    plane = _Plane(0.0, float(len(groups)), low, high)
    body = [plane.frame("", y_label, x_ticks=False)]
    for number, (name, estimates) in enumerate(groups):
        middle = plane.x(number + 0.5)
        body.append(
            f'<text class="tick" x="{middle:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(name)}</text>'
        )
        room = 0.76 * (plane.x(1) - plane.x(0)) / max(len(estimates), 1)
        for place, one in enumerate(estimates):
            x = middle + (place - (len(estimates) - 1) / 2) * room
            y, hint = plane.y(one.value), f"{one.label}, {name}: {one.value:.4g}"
            if bars:
                width, base = min(0.86 * room, 46), plane.y(low)
                body.append(
                    f'<rect class="fill c{one.colour}" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}"'
                    f' height="{max(base - y, 0):.1f}" rx="2"><title>{escape(hint)}</title></rect>'
                )
            else:
                body.append(
                    f'<line class="bar c{one.colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{plane.y(one.low):.1f}" y2="{plane.y(one.high):.1f}"/>'
                )
                body.append(_dot(x, y, one.colour, hint))
    return _svg(body, title)


def legend(names: Sequence[tuple[str, int]]) -> str:
    """What colour is which arm."""
    items = "".join(f'<span class="key"><i class="c{colour}"></i>{escape(name)}</span>' for name, colour in names)
    return f'<p class="legend">{items}</p>'


class _Plane:
    def __init__(self, left: float, right: float, low: float, high: float) -> None:
        self.left, self.right, self.low, self.high = left, right, low, high
        self.x = _scale(left, right, _LEFT, _WIDTH - _RIGHT)
        self.y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)

    def frame(self, x_label: str, y_label: str, x_ticks: bool = True) -> str:
        bottom = _HEIGHT - _BOTTOM
        parts = []
        for tick in ticks(self.low, self.high):
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
        for tick in ticks(self.left, self.right, 5) if x_ticks else ():
            x = self.x(tick)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{short(tick)}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="tick" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
        )
        parts.append(
            f'<text class="tick" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )
        return "".join(parts)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    factor = (end - start) / (high - low) if high > low else 0.0
    return lambda value: start + (value - low) * factor


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _dot(x: float, y: float, colour: int, hint: str) -> str:
    return f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(hint)}</title></circle>'


def _svg(body: Sequence[str], title: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        + "".join(body)
        + "</svg>"
    )
