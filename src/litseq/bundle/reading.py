"""Open a bundle from disk as untrusted input: nothing is used before it was checked."""

from __future__ import annotations

import hashlib
import json
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from litseq.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from litseq.errors import BundleError

_MANIFEST_LIMIT = 16 * 2**20
_BACKGROUND_BYTES = 4 * 2**20
"""Smaller files are hashed at once, in a few milliseconds."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest was read and whose files were checked."""

    path: Path
    manifest: Manifest
    _checks: tuple[Future[str | None], ...] = field(default=(), repr=False, compare=False)

    def ensure_sound(self) -> None:
        """Wait for the checks that run beside; after it everything was checked.

        Raises:
            BundleError: a file is damaged.
        """
        _refuse_damage(self.path, [check.result() for check in self._checks])

    def file(self, name: str) -> Path:
        """The path of one of the manifest's files."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.path} lists no file {name!r}; it has {', '.join(sorted(self.manifest.files))}")
        return self.path / name


def open_bundle(path: str | Path, *, verify: bool = True, background: bool = False) -> Bundle:
    """Read the manifest under `path` and check every file it lists.

    Args:
        path: The bundle's directory.
        verify: Also compare the SHA-256 of every file. Sizes are always compared. Leave it on for bundles that were
            moved or downloaded; a 500 MB bundle takes a fraction of a second.
        background: Hash large weights beside what the caller does; who loads them must call `Bundle.ensure_sound` before
            anything that was made of them is used. Manifest, graphs and tokenizer are always checked at once.

    Raises:
        BundleError: for a missing, foreign, damaged or newer bundle, in one line.
    """
    directory = Path(path)
    manifest = read_manifest(directory)
    read_first = {manifest.decoder.file, manifest.tokenizer.file, manifest.encoder.file if manifest.encoder else ""}
    later = {
        name
        for name, entry in manifest.files.items()
        if background and verify and name not in read_first and entry.bytes >= _BACKGROUND_BYTES
    }
    _refuse_damage(
        directory,
        [file_problem(directory, name, entry, verify and name not in later) for name, entry in manifest.files.items()],
    )
    if not later:
        return Bundle(directory, manifest)
    with_threads = ThreadPoolExecutor(len(later), thread_name_prefix="litseq-hash")
    checks = [with_threads.submit(file_problem, directory, name, manifest.files[name]) for name in sorted(later)]
    with_threads.shutdown(wait=False)
    return Bundle(directory, manifest, tuple(checks))


def _refuse_damage(directory: Path, found: list[str | None]) -> None:
    if problems := [problem for problem in found if problem]:
        raise BundleError(f"{directory} is damaged: {'; '.join(problems[:8])}; export or copy the bundle again")


def read_manifest(directory: Path) -> Manifest:
    """The manifest alone, with the files it lists not looked at."""
    file = directory / MANIFEST_NAME
    if not directory.exists():
        raise BundleError(f"{directory} does not exist; give the directory that `litseq export` wrote")
    if not directory.is_dir():
        raise BundleError(f"{directory} is a file; a bundle is a directory with a {MANIFEST_NAME}")
    if not file.is_file():
        raise BundleError(
            f"{directory} is no bundle: it has no {MANIFEST_NAME}; give the directory that `litseq export` wrote"
        )
    if _escapes(directory, file):
        raise BundleError(f"{file} is a link that leaves the bundle")
    try:
        size = file.stat().st_size
        if size > _MANIFEST_LIMIT:
            raise BundleError(f"{file} has {size} bytes, expected at most {_MANIFEST_LIMIT}")
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{file} is no valid JSON ({error}); export the bundle again") from error
    return Manifest.from_dict(raw)


def file_problem(directory: Path, name: str, entry: FileEntry, verify: bool = True) -> str | None:
    """What is wrong with one file of a bundle, or None."""
    file = directory / name
    try:
        info = file.stat()
        if not stat.S_ISREG(info.st_mode):
            return f"{name} is no regular file"
        if _escapes(directory, file):
            return f"{name} is a link that leaves the bundle"
        if info.st_size != entry.bytes:
            return f"{name} has {info.st_size} bytes, expected {entry.bytes}"
        if verify and (found := sha256(file)) != entry.sha256:
            return f"{name} has SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None


def sha256(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _escapes(directory: Path, file: Path) -> bool:
    return file.is_symlink() and not file.resolve().is_relative_to(directory.resolve())
