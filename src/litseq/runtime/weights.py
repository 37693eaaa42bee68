"""The weights of a bundle in memory: mapped once for all graphs, and let go when onnxruntime has its own form of them.

onnxruntime packs most weights anew for its kernels when it loads a graph. What it packed is read from the file no more,
but the pages that were read stay resident as long as another node reads the same tensor (a tied embedding), and once a
session. The mapping is read-only, so its pages can be dropped at any time: who reads them again gets them from the page
cache.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litseq.bundle import Bundle
from litseq.errors import BundleError
from litseq.runtime.huge_pages import HugePages

_SUFFIX = ".data"
_WATCHED_BYTES = 8 * 2**20
_WATCH_SECONDS = 0.001
"""Between two looks while graphs load: packing reads some 100 MB in 30 ms."""


class Weights:
    """The data files of a bundle, mapped read-only; must outlive the sessions that use them."""

    def __init__(self, bundle: Bundle) -> None:
        self._maps: list[mmap.mmap] = []
        self.arrays: dict[str, NDArray[np.uint8]] = {}
        """The content of each file, by name."""
        for name, entry in bundle.manifest.files.items():
            if name.endswith(_SUFFIX) and entry.bytes:  # an empty file cannot be mapped
                self._maps.append(_map(bundle, name, entry.bytes))
                self.arrays[name] = np.frombuffer(self._maps[-1], np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(array.nbytes for array in self.arrays.values())

    def release(self) -> None:
        """Drop the pages that are resident; they come back when something reads them."""
        advice: Any = getattr(mmap, "MADV_DONTNEED", None)
        if advice is not None:
            for mapped in self._maps:
                mapped.madvise(advice)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Keep only those pages resident that are being read: without it a tied table of embeddings is there twice.

        What onnxruntime packs meanwhile gets huge pages.
        """
        if self.nbytes < _WATCHED_BYTES:
            yield
            return
        done, pages = threading.Event(), HugePages()
        watcher = threading.Thread(target=self._watch, args=(done, pages), name="litseq-weights", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            self.release()
        pages.collapse()

    def _watch(self, done: threading.Event, pages: HugePages) -> None:
        while not done.wait(_WATCH_SECONDS):
            self.release()
            pages.advise()


def _map(bundle: Bundle, name: str, size: int) -> mmap.mmap:
    file = bundle.file(name)
    try:
        with file.open("rb") as stream:
            # Of the checked size, and not of whatever the file has become: beyond its end there is nothing to read.
            return mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be mapped into memory: {error}") from error
