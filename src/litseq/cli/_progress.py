"""A progress bar on standard error, only where somebody looks at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_SECONDS = 0.2


@contextmanager
def progress_bar(
    state: Callable[[], tuple[int, float | None]], done: int = 0, *, shown: bool = True
) -> Iterator[Callable[[], None]]:
    """A bar; call what it gives often.

    Args:
        state: Prompts that are done, and how many there will be: estimated, or None where nobody can tell.
        done: Prompts that an earlier run did.
        shown: Whether there is to be one at all.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("generating"),
        BarColumn(),
        TextColumn("{task.fields[count]} · {task.fields[rate]}/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    began = drawn = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        task = progress.add_task("", total=None, completed=done, count="0", rate="–")

        def show() -> None:
            nonlocal drawn
            drawn = time.monotonic()
            now, total = state()
            count = f"{now:,} prompts" if total is None else f"{now:,} of {total:,.0f} prompts"
            rate = (now - done) / max(1e-3, drawn - began)
            speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
            progress.update(task, completed=now, total=total, refresh=True, count=count, rate=speed)

        def tick() -> None:
            if time.monotonic() - drawn >= _EVERY_SECONDS:
                show()

        yield tick
        show()
