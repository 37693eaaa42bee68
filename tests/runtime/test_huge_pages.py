import mmap
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from litseq.runtime import huge_pages
from litseq.runtime.huge_pages import HugePages, _without


@pytest.mark.parametrize(
    ("ranges", "taken", "left"),
    [
        ([(0, 10)], [], [(0, 10)]),
        ([(0, 10)], [(0, 10)], []),
        ([(0, 10)], [(2, 4), (6, 7)], [(0, 2), (4, 6), (7, 10)]),
        ([(0, 10), (20, 30)], [(5, 25)], [(0, 5), (25, 30)]),
        ([(5, 10)], [(0, 3), (12, 20)], [(5, 10)]),
    ],
)
def test_what_was_there_before_is_left_alone(ranges, taken, left):
    assert _without(ranges, taken) == left


def huge_bytes(address):
    """Bytes in huge pages of the mapping that holds an address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(" ", 1)[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(word, 16) for word in first.split("-"))
            inside = start <= address < end
        elif inside and line.startswith("AnonHugePages:"):
            return 1024 * int(line.split()[1])
    return 0


def gives_huge_pages():
    file = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return sys.platform.startswith("linux") and file.is_file() and "[never]" not in file.read_text()


@pytest.mark.skipif(not gives_huge_pages(), reason="this kernel gives no huge pages")
def test_new_memory_gets_huge_pages_and_keeps_its_content():
    pages = HugePages()
    memory = mmap.mmap(-1, 64 * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    pages.advise()
    array[: 32 * 2**20] = 7  # touched after the advice
    array[32 * 2**20 :] = 9
    address = array.ctypes.data
    pages.collapse()
    deadline = time.monotonic() + 20
    while huge_bytes(address) < 32 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (array[: 32 * 2**20] == 7).all()
    assert (array[32 * 2**20 :] == 9).all()
    if not huge_bytes(address):
        pytest.skip("the kernel had no huge page to give, so that only the content could be checked")


def test_where_it_is_not_known_nothing_happens(monkeypatch):
    monkeypatch.setattr(huge_pages, "_find_madvise", lambda: None)
    pages = HugePages()
    pages.advise()
    pages.collapse()
    assert pages._new() == []
