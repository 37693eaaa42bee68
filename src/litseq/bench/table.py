"""What `bench` found, as tables for a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from litseq.bench.speed import BenchResult, Point

_CAPTION = (
    "first: until every row has its first token. Limits: reading weights and caches from memory, or multiplying; "
    "above 100 % the weights stay in the processor's cache."
)


def tables(result: BenchResult) -> RenderableType:
    """The machine's limits, and a table with a line a batch size and length."""
    limits = result.limits
    head = Text.assemble(
        (result.bundle, "bold"), f"  {result.architecture}\n",
        f"{result.cpu}, {limits.threads} threads; ", ", ".join(f"{n} {v}" for n, v in result.versions.items()), "\n",
        f"limits measured now: memory {limits.bandwidth / 1e9:.1f} GB/s; matrix products "
        f"{limits.float_operations / 1e9:,.0f} GFLOP/s float32, {limits.integer_operations / 1e9:,.0f} int8\n",
        f"a step reads {result.step_bytes / 1e6:,.1f} MB of weights, and {result.cache_bytes:,} bytes of cache a token "
        "and row",
    )  # fmt: skip
    return Group(head, _points(result))


def _points(result: BenchResult) -> Table:
    encoder = any(point.encoder_seconds is not None for point in result.points)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=0,
        caption=_CAPTION,
        caption_justify="left",
        caption_style="dim",
    )
    names = ["batch", "source" if encoder else "prompt", "first\nms", *(["encoder\nms"] if encoder else [])]
    names += ["read\ntokens/s", "of\nlimit", "step\nms", "made\ntokens/s", "of\nlimit", "bound by"]
    for name in names:
        justify: JustifyMethod = "left" if name == "bound by" else "right"
        table.add_column(name, justify=justify, vertical="bottom", no_wrap=True)
    last = None
    for point in result.points:
        if last not in (None, point.length):
            table.add_section()
        last = point.length
        table.add_row(*_cells(point, encoder))
    return table


def _cells(point: Point, encoder: bool) -> list[str]:
    cells = [f"{point.batch}", f"{point.length}", _milliseconds(point.prompt_seconds)]
    if encoder:
        cells.append(_milliseconds(point.encoder_seconds or 0.0))
    cells += [f"{point.prompt_tokens_per_second:,.0f}", _share(point.prompt_share), _milliseconds(point.step_seconds)]
    return [*cells, _speed(point.tokens_per_second), _share(point.step_share), point.step_bound]


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
