"""Huge pages under the weights that onnxruntime packs for its kernels.

A decode step of one row reads every weight once, so the processor looks up one address translation a page. With pages of
4 KiB, the default of Linux for memory nobody asked more for, that takes a fifth of the step: 17.7 ms instead of 14.8 for
110 M parameters in fp32 on two cores of an EPYC (Zen 4). onnxruntime does not ask, so this module does it for the large
private memory that appears while a bundle loads. Linux only, best effort: where the kernel says no, nothing changes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from pathlib import Path

_HUGE = 2 * 2**20
_SMALLEST = 2 * _HUGE
_COLLAPSE = 25  # MADV_COLLAPSE, Linux 6.1; Python has no name for it
_PRIVATE_MEMORY = (
    ["rw-p", "00000000", "00:00", "0"],
    ["rw-p", "00000000", "00:00", "0", "[heap]"],  # what is smaller than some MB: the weights of a narrow model
)

Range = tuple[int, int]


class HugePages:
    """Watches the memory of the process from its creation on."""

    def __init__(self) -> None:
        self._madvise = _find_madvise()
        self._before = _ranges() if self._madvise is not None else []

    def advise(self) -> None:
        """Ask for huge pages where new memory has appeared; pages touched from now on are huge."""
        for start, end in self._new():
            self._call(start, end, mmap.MADV_HUGEPAGE)

    def collapse(self) -> None:
        """Make huge what was touched before; runs beside the caller, as it takes some 0.2 s for 100 MB."""
        if self._madvise is not None:
            threading.Thread(target=self._collapse, name="litseq-huge-pages", daemon=True).start()

    def _collapse(self) -> None:
        for start, end in self._new():
            self._call(start, end, mmap.MADV_HUGEPAGE)
            # In parts: the kernel holds a lock on the process's memory meanwhile.
            for part in range(start, end, 8 * _HUGE):
                self._call(part, min(part + 8 * _HUGE, end), _COLLAPSE)

    def _new(self) -> list[Range]:
        """Whole huge pages of private memory that were not mapped at the beginning."""
        if self._madvise is None:
            return []
        found = []
        for start, end in _without(_ranges(), self._before):
            first, last = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            if last > first:
                found.append((first, last))
        return found

    def _call(self, start: int, end: int, advice: int) -> None:
        # It fails where memory went away meanwhile, or the kernel knows no such advice: all that is harmless.
        assert self._madvise is not None
        self._madvise(start, end - start, advice)


def _find_madvise() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # a C library without it: small pages, then
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def _ranges() -> list[Range]:
    """Large private memory of this process that stands for no file, in ascending order."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # no /proc: nothing is known, and small pages do as well
        return []
    found = []
    for line in lines:
        addresses, _, rest = line.partition(" ")
        if rest.split() in _PRIVATE_MEMORY:
            start, end = (int(word, 16) for word in addresses.split("-"))
            if end - start >= _SMALLEST:
                found.append((start, end))
    return found


def _without(ranges: list[Range], taken: list[Range]) -> list[Range]:
    """What of `ranges` lies outside of `taken`."""
    left = []
    for start, end in ranges:
        for first, last in taken:
            if last <= start or end <= first:
                continue
            if start < first:
                left.append((start, first))
            start = max(start, last)
            if start >= end:
                break
        if start < end:
            left.append((start, end))
    return left
