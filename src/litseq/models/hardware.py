"""What the processor can and cannot do."""

from typing import Any

import torch

_BFLOAT16 = ("avx512_bf16", "amx_bf16")


def lacks_bfloat16() -> bool:
    """Whether this is an x86 processor without bfloat16 instructions, where such matrices are multiplied the slow way.

    A matrix product in bfloat16 takes several times as long there as in float32. Of other processors nothing is said.
    """
    read = getattr(torch.cpu, "get_capabilities", None)
    found: dict[str, Any] = read() if read is not None else {}
    return found.get("architecture") == "x86_64" and not any(found.get(name) for name in _BFLOAT16)
