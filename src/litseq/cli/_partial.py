"""An output file that is written beside its place, renamed when it is complete, and continued when it was interrupted."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from litseq._lock import lock
from litseq.cli._lines import is_packed_name
from litseq.errors import DataError, UsageError

_FORMAT = 1
_NOTE_SECONDS = 1.0
"""A process that is killed outright repeats so much work at most, besides what had not had its turn."""


class StreamOutput:
    """Outputs into a stream that somebody else may be reading: they cannot be taken back, and not be continued."""

    done_before = 0

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def follow(self, inputs: Iterable[bytes]) -> None:
        """Nothing was done before."""

    def write(self, text: str, _raw: bytes) -> None:
        """Write the outputs of the next prompt; the reader has them at once, who may wait for them to send another."""
        self._stream.write(text)
        self._stream.flush()

    def flush(self) -> None:
        """Nothing is held back."""


class PartialOutput:
    """`OUT.partial` while the work goes on, with a note of what is done in `OUT.partial.json`; then `OUT`.

    The note says how many prompts are done, where their lines end, the hash of their input, and what the outputs depend on,
    so that a run that continues writes exactly what an uninterrupted one writes.
    """

    def __init__(
        self, target: Path, made_from: Mapping[str, Any], *, resume: bool = False, force: bool = False
    ) -> None:
        """Open it, anew or with what an interrupted run left.

        Args:
            target: The output; `.gz` is packed when it is complete.
            made_from: Plain types: what the outputs follow from, besides the prompts.
            resume: Continue when there is something to continue.
            force: Replace the output, or what an interrupted run left.

        Raises:
            UsageError: when something is in the way, or what is there was made from something else.
        """
        if target.is_dir():  # "." has no name that another could be made of
            raise UsageError(f"{target} is a directory; give a file name to --output")
        self._target = target
        self.path = target.with_name(target.name + ".partial")
        """Where the outputs are while the work goes on."""
        self._note = target.with_name(target.name + ".partial.json")
        # Through JSON and back, to be comparable with what was written.
        self._head = {"format": _FORMAT, "replaces": force, "made_from": json.loads(json.dumps(made_from))}
        # Prompts done, bytes of their outputs, hash of their input: one tuple, which an interruption cannot tear.
        self._state = (0, 0, hashlib.sha256())
        self._before = self._find(resume=resume, force=force)
        self._kept = self.done_before  # prompts that the note on the disk speaks of
        try:
            self._stream = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")  # noqa: SIM115  open until the end
        except OSError as error:
            raise UsageError(f"{target.parent} cannot be written: {error.strerror}; choose another place") from error
        try:
            lock(self._stream, self.path, "wait for it, or choose another --output")
            self._go_on_at(self._before["bytes"] if self._before else 0)
            if not self._before:
                self.note()
        except BaseException:
            self._stream.close()
            raise

    @property
    def done(self) -> int:
        """Prompts whose outputs are written."""
        return self._state[0]

    @property
    def done_before(self) -> int:
        """Prompts that the interrupted run has done."""
        return self._before["done"] if self._before else 0

    def follow(self, inputs: Iterable[bytes]) -> None:
        """Take over what the interrupted run did; `inputs` are the first `done_before` inputs.

        Raises:
            UsageError: when they are not those that it had.
        """
        if self._before is None:
            return
        digest = hashlib.sha256()
        for count, raw in enumerate(inputs, 1):
            digest.update(raw + b"\n")
            self._state = (count, 0, digest)
        if self.done != self.done_before or digest.hexdigest() != self._before["input_sha256"]:
            raise UsageError(
                f"{self.path} was made from another input: the first {self.done_before:,} prompts differ; give the same "
                "to go on with it, or start again with --force"
            )
        self._state = (self.done, self._before["bytes"], digest)

    def write(self, text: str, raw: bytes) -> None:
        """Write the outputs of the next prompt, whole lines; `raw` is its input.

        Raises:
            UsageError: when there is no place for them.
        """
        data = text.encode("utf-8")
        with _naming(self.path):
            self._stream.write(data)
        done, size, digest = self._state
        digest = digest.copy()
        digest.update(raw + b"\n")
        self._state = (done + 1, size + len(data), digest)
        if time.monotonic() - self._noted >= _NOTE_SECONDS:
            self.note()

    def note(self) -> None:
        """Note what is done; it happens now and then. It raises what `write` does."""
        done, size, digest = self._state
        values = self._head | {"done": done, "bytes": size, "input_sha256": digest.hexdigest()}
        beside = self._note.with_name(self._note.name + ".new")
        with _naming(self.path):
            self._stream.flush()
            try:
                beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
                os.replace(beside, self._note)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
        self._noted = time.monotonic()
        self._kept = done

    def flush(self) -> None:
        """Nobody is waiting."""

    def finish(self) -> None:
        """Put the output in its place."""
        self.note()
        with _naming(self._target):
            self._put_in_place()
        self._note.unlink(missing_ok=True)

    def _put_in_place(self) -> None:
        if is_packed_name(self._target):
            packed = self._target.with_name(self._target.name + ".packing")
            try:
                # Without name and time: the same outputs are the same file.
                with (
                    self.path.open("rb") as plain,
                    packed.open("wb") as file,
                    gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped,
                ):
                    shutil.copyfileobj(plain, zipped, 1 << 20)
                os.replace(packed, self._target)
            except BaseException:
                packed.unlink(missing_ok=True)
                raise
            self._stream.close()
            self.path.unlink()
        else:
            self._stream.close()
            os.replace(self.path, self._target)

    def stop(self) -> int:
        """Leave what is done for another run; how many prompts that are."""
        if self._stream.closed:  # all is done and noted, but not in its place
            return self._kept
        if self.done > self._kept:
            with suppress(UsageError):  # on a full disk the last note stands, and what is behind it is done again
                self.note()
        with suppress(OSError):  # closing writes what is still in memory
            self._stream.close()
        if not self._kept:
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
        return self._kept

    def _find(self, *, resume: bool, force: bool) -> dict[str, Any] | None:
        """The note of an interrupted run that is to be continued, after a look at what is in the way."""
        target = self._target
        if not target.parent.is_dir():
            raise UsageError(f"{target.parent} does not exist; make the directory first")
        note = None if force else _read_note(self._note)
        if target.exists() and not force and not (resume and note and note["replaces"]):
            raise UsageError(f"{target} exists; choose another name, or replace it with --force")
        if force or not self.path.exists():
            return None
        if not self.path.stat().st_size and not (note and note["bytes"]):
            return None  # the run was killed before it had done anything
        if note is None:
            raise UsageError(f"{self.path} is there and nothing says what it is; move it, or start again with --force")
        if not resume:
            raise UsageError(
                f"{self.path} holds {note['done']:,} prompts of an interrupted run; go on with --resume, or start "
                "again with --force"
            )
        self._compare(note["made_from"])
        return note

    def _compare(self, before: dict[str, Any]) -> None:
        now = self._head["made_from"]
        assert isinstance(now, dict)
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                what = "another bundle" if name == "bundle" else f"{name} {_shown(old)}, not {_shown(new)}"
                raise UsageError(
                    f"{self.path} was made with {what}; give the same to go on with it, or start again with --force"
                )

    def _go_on_at(self, size: int) -> None:
        found = os.fstat(self._stream.fileno()).st_size
        if found < size:
            raise DataError(f"{self.path} has {found:,} bytes, its note says {size:,}; start again with --force")
        # What follows was not noted before the end came: perhaps half a line.
        self._stream.truncate(size)
        self._stream.seek(size)
        self._noted = time.monotonic()
        if self._before:
            self._head["replaces"] = self._before["replaces"]


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say which file it is that cannot be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}; mend that") from error


def _read_note(file: Path) -> dict[str, Any] | None:
    kinds = {"format": int, "replaces": bool, "made_from": dict, "done": int, "bytes": int, "input_sha256": str}
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or a damaged one: whoever asks says so
        return None
    fits = isinstance(note, dict) and all(type(note.get(name)) is kind for name, kind in kinds.items())
    return note if fits and note["format"] == _FORMAT else None


def _shown(value: object) -> str:
    return "left out" if value is None else str(value)[:60]
