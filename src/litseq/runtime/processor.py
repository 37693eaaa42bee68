"""What the processor is called and what it can do, as far as the system says."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Processor:
    """A processor; of systems that do not tell, no feature is known."""

    name: str
    features: frozenset[str] = frozenset()

    @property
    def has_vnni(self) -> bool:
        """Whether it is known to add 8-bit products in 32 bits, as VNNI does, where others add pairs in 16 bits.

        onnxruntime's kernels of 512 bits do so with `avx512_vnni` only, whatever the narrower units can.
        """
        return ("avx512_vnni" if "avx512f" in self.features else "avx_vnni") in self.features


@cache
def this_processor() -> Processor:
    """The processor of this machine."""
    name = platform.processor() or platform.machine()
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # no Linux
        return Processor(name)
    return parse_cpuinfo(text, name)


def parse_cpuinfo(text: str, name: str) -> Processor:
    """Read Linux's description; `name` stands where it has none, as on ARM."""
    features: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            features |= set(value.split())
        elif key.strip() == "model name":
            name = value.strip()
    return Processor(name, frozenset(features))
