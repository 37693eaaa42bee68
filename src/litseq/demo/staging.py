"""A directory that appears complete or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from litseq.demo.report import RESULTS
from litseq.errors import UsageError


@contextmanager
def staged_directory(out: Path | None, *, force: bool) -> Iterator[Path]:
    """A directory to work in, which becomes `out` at the end of the block.

    Any exception, Ctrl-C included, removes it and leaves an existing `out` as it was.

    Args:
        out: The directory to appear; `None` makes a temporary one that disappears.
        force: Replace `out` when an earlier demo wrote it; any other directory with something in it is refused.

    Raises:
        UsageError: `out` may not be written, before any work.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="litseq-demo-") as temporary:
            yield Path(temporary)
        return
    _check_replaceable(out, force)
    made = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.absolute().parent))
    except OSError as error:
        msg = f"{out} cannot be written: {error.strerror}; choose another place"
        raise UsageError(msg) from error
    try:
        yield work
        _check_replaceable(out, force)
        if out.exists():
            shutil.rmtree(out)
        work.chmod(0o755)
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        for parent in made:
            if not any(parent.iterdir()):
                parent.rmdir()
        raise


def _check_replaceable(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        msg = f"{out} exists and is no directory; choose another name"
        raise UsageError(msg)
    if not any(out.iterdir()):
        return
    if not (out / RESULTS).is_file():
        msg = f"{out} exists and holds no {RESULTS} of a demo, so it is never replaced; choose another name"
        raise UsageError(msg)
    if not force:
        msg = f"{out} exists; choose another name, or replace it with --force"
        raise UsageError(msg)
