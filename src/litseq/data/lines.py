"""Lines of text files, plain or gzip'd, and the one message about all lines that cannot be used."""

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from litseq.errors import DataError

_SHOWN = 10


class BadLines:
    """Collects the lines that cannot be used, so that one error names the first ten and says how many there are."""

    def __init__(self, policy: str) -> None:
        if policy not in ("raise", "skip"):
            raise ValueError(f"on_bad_line={policy!r} is unknown, expected 'raise' or 'skip'")
        self.policy = policy
        self.total = 0
        self._shown: list[str] = []

    def add(self, path: str, number: int, reason: str) -> None:
        """One bad line; `number` counts from 1."""
        self.total += 1
        if len(self._shown) < _SHOWN:
            self._shown.append(f"{path} line {number}: {reason}")

    def finish(self) -> None:
        """Raise, or warn under `skip`, if there was any."""
        if not self.total:
            return
        more = f"; and {self.total - _SHOWN} more" if self.total > _SHOWN else ""
        found = f"{self.total} bad line{'s' if self.total > 1 else ''}: {'; '.join(self._shown)}{more}"
        if self.policy == "raise":
            raise DataError(f"{found}. Correct the file, or leave such lines out with on_bad_line='skip'")
        rank_zero_warn(f"left out {found}")


def check_file(path: str) -> None:
    """An error for a file that cannot be opened."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a data file") from None


def read_lines(path: str) -> list[bytes]:
    """The lines of a file without their ends; an error for a file that is missing, empty or damaged.

    Lines end at a line feed only: a form feed or U+2028 inside a sentence is no end of line, or aligned files shift.
    """
    check_file(path)
    content = Path(path).read_bytes()
    if path.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content) if content else content
        except EOFError:
            raise DataError(f"{path}: the gzip file is truncated, it ends before its end mark; copy it again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: not a sound gzip file ({error}); copy it again or drop the .gz") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content:
        raise DataError(f"{path}: the file is empty, expected at least one line")
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix(b"\r") for line in lines]


def without_blank_end(lines: list[bytes]) -> list[bytes]:
    """The lines up to the last one that is not blank.

    Not for aligned files, in which a blank line stands for an empty side of a pair.
    """
    end = len(lines)
    while end and not lines[end - 1].strip():
        end -= 1
    return lines[:end]


def decode_line(line: bytes, path: str, number: int, bad: BadLines) -> str | None:
    """A line as text, or None and a bad line."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad.add(path, number, f"invalid UTF-8 at byte {error.start + 1} (0x{line[error.start]:02x})")
        return None


def file_facts(path: str) -> dict[str, Any]:
    """What identifies a data file: its name, size and hash."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": Path(path).name, "bytes": Path(path).stat().st_size, "sha256": digest}
