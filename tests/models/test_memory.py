import platform
import subprocess
import sys

import pytest

from litseq.models import memory

COUNT = """
import resource, sys
import torch
from litseq.models.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(2**24)  # 64 MiB: what malloc maps by itself at every call
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt, which keeps the memory, is the GNU C library's")
def test_the_next_step_finds_its_pages():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", COUNT, way], capture_output=True, text=True, check=True).stdout)
        for way in ("keep", "plain")
    }
    assert faults["keep"] < faults["plain"] / 4


def test_another_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
