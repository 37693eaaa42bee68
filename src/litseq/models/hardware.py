"""What the processor can and cannot do."""

from typing import Any

import torch

_BFLOAT16 = ("avx512_bf16", "amx_bf16")


def lacks_bfloat16() -> bool:
    """Whether this is an x86 processor without bfloat16 instructions, where such matrices are multiplied the slow way.

    A matrix product in bfloat16 takes several times as long there as in float32. Of other processors nothing is said.
    """
    return _x86_bfloat16() is False


def has_bfloat16() -> bool:
    """Whether this is an x86 processor with bfloat16 instructions, where products of such matrices take half the time."""
    return _x86_bfloat16() is True


def _x86_bfloat16() -> bool | None:
    """Whether there are instructions for bfloat16; None of another processor than an x86."""
    read = getattr(torch.cpu, "get_capabilities", None)
    found: dict[str, Any] = read() if read is not None else {}
    return any(found.get(name) for name in _BFLOAT16) if found.get("architecture") == "x86_64" else None
