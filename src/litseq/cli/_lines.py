"""Prompts from files and pipes of any size, a line each."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import select
import stat
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from litseq.errors import DataError

MOST_BYTES = 1 << 20
"""Of one line: many times what fits a model, and little enough to hold some."""

_CHUNK = 1 << 16
_TAKEN_BYTES = 8 << 20  # of the lines of one block

Prompt = str | list[int]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the input."""

    raw: bytes
    prompt: Prompt | None
    """None where `error` says why there is none."""
    error: DataError | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    """Of a JSON object: everything but the prompt."""


class Lines:
    """A source for `Generator.offline`: the lines of a stream, read as they are needed.

    The lines that were taken wait in `taken` for whoever writes their outputs.
    """

    def __init__(self, stream: IO[bytes], name: str, *, as_json: bool = False) -> None:
        """Read from `stream`, called `name` in messages: text, or with `as_json` an object with `prompt` a line."""
        self.name = name
        self.failure: Exception | None = None
        self.taken: deque[Line] = deque()
        self.count = 0
        """Lines read so far."""
        self._stream = stream
        self._read = _reader(stream)
        self._waits = _waits(stream)
        self._parse = self._parse_json if as_json else self._parse_text
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        self._blank: list[bytes] | None = [] if as_json else None
        self._ended = False

    def take(self, most: int, *, wait: bool) -> list[Prompt | DataError]:
        """See `litseq.runtime.offline.Source.take`."""
        items: list[Prompt | DataError] = []
        held = 0
        while len(items) < most and held < _TAKEN_BYTES:
            if not self._lines and not self._fill(wait=wait and not items):
                break
            line = self._parse(self._lines.popleft())
            self.taken.append(line)
            held += len(line.raw)
            items.append(line.error or ("" if line.prompt is None else line.prompt))
        return items

    def skip(self, count: int) -> Iterator[bytes]:
        """Pass over `count` lines that were done before, or as many as there are."""
        while count and (self._lines or self._fill(wait=True)):
            count -= 1
            self.count += 1
            yield self._lines.popleft()

    def check_not_empty(self) -> None:
        """Wait for the first line.

        Raises:
            DataError: when there is none.
        """
        if not self._lines and not self._fill(wait=True):
            raise self.failure or DataError(f"{self.name} is empty; expected one prompt a line")

    def where(self, place: int) -> str:
        """What a message calls the prompt of a line."""
        return f"{self.name} line {place + 1}: the prompt"

    @property
    def waiting(self) -> int:
        """Lines that are read and not taken: of a file, its first ones when it is opened."""
        return len(self._lines)

    @property
    def share(self) -> float | None:
        """Of the file, how much was read, from 0 to 1; None where nobody can tell."""
        if self._ended:
            return 1.0
        try:
            raw = getattr(self._stream, "fileobj", self._stream)  # of a .gz file the packed one
            status = os.fstat(raw.fileno())
            return min(1.0, raw.tell() / status.st_size) if stat.S_ISREG(status.st_mode) and status.st_size else None
        except (OSError, ValueError, AttributeError):  # a pipe, a closed stream, one without a number
            return None

    def _fill(self, *, wait: bool) -> bool:
        """Read more lines; whether there are any. Without `wait`, nothing is done that could block."""
        while not self._lines and not self._ended:
            if self._waits and not wait and not select.select([self._stream], [], [], 0)[0]:
                return False
            try:
                chunk = self._read(_CHUNK)
            except (EOFError, OSError, zlib.error) as error:
                self.failure = self._read_error(error)
                self._ended = True
                break
            self._split(chunk)
        return bool(self._lines)

    def _split(self, chunk: bytes) -> None:
        first, *parts = chunk.split(b"\n")
        if len(self._rest) <= MOST_BYTES:  # of a longer line the rest is read and forgotten
            self._rest += first
        if parts:
            self._add(bytes(self._rest), *parts[:-1])
            self._rest = bytearray(parts[-1])
        if not chunk:
            self._ended = True
            if self._rest:
                self._add(bytes(self._rest))
                self._rest.clear()

    def _add(self, *lines: bytes) -> None:
        """Add lines. Blank ones of JSON wait for one behind them: at the end of a file they mean nothing."""
        if self._blank is None:
            self._lines.extend(lines)
            return
        for line in lines:
            self._blank.append(line)
            if line.strip():
                self._lines.extend(self._blank)
                self._blank.clear()

    def _parse_text(self, raw: bytes) -> Line:
        try:
            return Line(raw, self._text(raw))
        except DataError as error:
            return Line(raw, None, error)

    def _parse_json(self, raw: bytes) -> Line:
        fields: object = None
        try:
            try:
                fields = json.loads(self._text(raw))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{self._here} is no JSON ({error}); expected an object a line") from None
            return self._from_object(raw, fields)
        except DataError as error:
            return Line(raw, None, error, fields if isinstance(fields, dict) else {})

    def _from_object(self, raw: bytes, fields: object) -> Line:
        if not isinstance(fields, dict) or "prompt" not in fields:
            raise DataError(f'{self._here} has no prompt; expected {{"prompt": "..."}}')
        prompt = fields.pop("prompt")
        if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(type(i) is int for i in prompt)):
            raise DataError(f"{self._here}: prompt is {str(prompt)[:40]!r}, expected a text or a list of token ids")
        return Line(raw, prompt, fields=fields)

    def _text(self, raw: bytes) -> str:
        self.count += 1
        if len(raw) > MOST_BYTES:
            raise DataError(f"{self._here} is longer than {MOST_BYTES:,} bytes; expected one prompt a line")
        try:
            bare = raw.removeprefix(codecs.BOM_UTF8) if self.count == 1 else raw
            return bare.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self._here} is no UTF-8 ({error.reason}); convert the file to UTF-8") from None

    @property
    def _here(self) -> str:
        return f"{self.name} line {self.count}"

    def _read_error(self, error: Exception) -> DataError:
        if isinstance(error, EOFError):
            return DataError(f"{self.name} is cut off after line {self.count}; download or copy it again")
        if isinstance(error, gzip.BadGzipFile | zlib.error):
            return DataError(f"{self.name} is no valid .gz file ({error}); download or copy it again")
        reason = error.strerror if isinstance(error, OSError) else None
        return DataError(f"{self.name} cannot be read: {reason or error}")


class Texts:
    """The same for texts that are given on the command line."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.failure: Exception | None = None
        self.taken: deque[Line] = deque()
        self.count = 0
        self.share: float | None = 1.0
        self.waiting = len(texts)
        self._texts = texts

    def take(self, most: int, *, wait: bool) -> list[Prompt | DataError]:
        """See `litseq.runtime.offline.Source.take`."""
        texts = self._texts[self.count : self.count + most]
        self.count += len(texts)
        self.taken.extend(Line(_bytes(text), text) for text in texts)
        return [*texts]

    def skip(self, count: int) -> Iterator[bytes]:
        """See `Lines.skip`."""
        for text in self._texts[:count]:
            self.count += 1
            yield _bytes(text)

    def where(self, place: int) -> str:
        """See `Lines.where`."""
        return f"prompt {place}"


def is_json_name(file: Path) -> bool:
    """Whether a file holds an object a line, by its name."""
    return file.name.lower().removesuffix(".gz").endswith((".jsonl", ".ndjson"))


def is_packed_name(file: Path) -> bool:
    """Whether a file is packed, by its name."""
    return file.suffix.lower() == ".gz"


@contextmanager
def open_lines(file: Path | None, *, as_json: bool | None = None) -> Iterator[Lines]:
    """The lines of a file (also .gz), or of standard input; as JSON when the name ends in .jsonl, unless `as_json` says.

    Raises:
        DataError: when the file cannot be opened or is empty.
    """
    name = str(file or "standard input")
    if as_json is None:
        as_json = file is not None and is_json_name(file)
    try:
        stream = _open(file)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    try:
        lines = Lines(stream, name, as_json=as_json)
        lines.check_not_empty()
        yield lines
    finally:
        if file is not None:
            stream.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # an argument that is no UTF-8 is refused later, by its place


def _open(file: Path | None) -> IO[bytes]:
    if file is None:
        if sys.stdin is None:
            raise DataError("standard input is closed; give prompts as TEXT or with --input")
        return sys.stdin.buffer
    if is_packed_name(file):
        return gzip.open(file, "rb")  # type: ignore[return-value]  # GzipFile has all that is used here
    return file.open("rb", buffering=0)


def _reader(stream: IO[bytes]) -> Any:
    """What reads at most n bytes, and gives those that are there without waiting for more."""
    raw = getattr(stream, "raw", stream)
    return getattr(raw, "read1", raw.read)


def _waits(stream: IO[bytes]) -> bool:
    """Whether reading may have to wait for somebody who writes, and whether that can be told beforehand."""
    if os.name != "posix" or hasattr(stream, "fileobj"):  # of a .gz file nobody can tell
        return False
    try:
        return not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # no file: a test's, or a notebook's
        return False
