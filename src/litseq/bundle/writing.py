"""Write a bundle so that nothing half-written is ever seen: beside the target, then renamed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from litseq.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest
from litseq.bundle.reading import read_manifest, sha256
from litseq.errors import BundleError, LitseqError, UsageError


class BundleDraft:
    """A bundle being written: put files into `path`, then `finish` once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """A temporary directory beside the target; every regular file put directly into it becomes part of the bundle."""
        self.manifest: Manifest | None = None

    def finish(self, manifest: Manifest) -> Manifest:
        """Measure every file, complete `manifest` with sizes and hashes, check it and write `manifest.json`.

        Raises:
            BundleError: when the manifest contradicts the format or misses a file.
        """
        files = {}
        for file in sorted(self.path.iterdir()):
            if file.is_symlink() or not file.is_file():
                raise BundleError(f"{file.name} is no regular file; a bundle holds files only")
            if file.name != MANIFEST_NAME:
                files[file.name] = FileEntry(file.stat().st_size, sha256(file))
        complete = replace(manifest, files=files)
        text = complete.to_json()
        Manifest.from_dict(json.loads(text))  # what a reader will see, checked as it will check it
        (self.path / MANIFEST_NAME).write_text(text, encoding="utf-8")
        self.manifest = complete
        return complete


@contextmanager
def create_bundle(target: str | Path, *, force: bool = False) -> Iterator[BundleDraft]:
    """Write a bundle to `target`; the directory appears complete at the end of the block, or not at all.

    Any exception, Ctrl-C included, removes what was written and leaves an existing target as it was.

    Args:
        target: The bundle's directory. Its parents are made when missing.
        force: Replace an existing bundle. A directory that is not a bundle, or that holds files which are no part of
            the bundle, is refused all the same unless it is empty.

    Raises:
        UsageError: when `target` may not be written, before any work.
        BundleError: when the block ends without `finish`.
    """
    path = Path(target)
    path = path.resolve() if path.is_symlink() else path
    check_target(path, force=force)
    made = _make_parents(path.parent)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    except OSError as error:
        _remove_empty(made)
        raise UsageError(f"{path.parent} cannot be written: {error.strerror}; choose another place") from error
    try:
        draft = BundleDraft(temporary)
        yield draft
        if draft.manifest is None:
            raise BundleError(f"nothing was written to {path}: the draft was never finished")
        check_target(path, force=force)
        temporary.chmod(0o777 & ~_umask())
        _move_into_place(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_empty(made)
        raise


def check_target(target: str | Path, *, force: bool = False) -> None:
    """Raise a UsageError unless a bundle may be written to `target`."""
    path = Path(target)
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise UsageError(f"{path} exists and is no directory; choose another name")
    content = {entry.name for entry in path.iterdir()}
    if not content:
        return
    try:
        known = {MANIFEST_NAME, *read_manifest(path).files}
    except LitseqError:
        raise UsageError(f"{path} exists and is no bundle, so it is never replaced; choose another name") from None
    if not force:
        raise UsageError(f"{path} exists; choose another name, or replace it with --force")
    if foreign := sorted(content - known):
        raise UsageError(
            f"{path} also holds {', '.join(foreign[:4])}, which is no part of the bundle; move it away first"
        )


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    # A directory cannot be renamed over a filled one: the old one steps aside, and comes back if the new one fails.
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.replaced-", dir=path.parent))
    old = aside / "old"
    path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:
        old.rename(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _make_parents(parent: Path) -> list[Path]:
    missing = [p for p in (parent, *parent.parents) if not p.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise UsageError(f"{parent} cannot be made: {error.strerror}; choose another place") from error
    return missing


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        with suppress(OSError):  # not empty, or not made: then it is not ours to remove
            directory.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
