"""Keep at 8 bits those matrices that 4 bits hurt most, as few as a limit of the damage asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from litseq.quantize.blocks_form import BlockWeight

LADDER = (0.0, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8, 15 / 16, 1.0)
"""Shares of the weights that are tried at 8 bits."""


def relative_error(
    matrix: NDArray[np.float32], quantised: BlockWeight, hessian: NDArray[np.float32] | None = None
) -> float:
    """The squared error of a product by its squared size, over the inputs that the Hessian was summed over.

    Args:
        matrix: [N, K].
        quantised: The same in few bits.
        hessian: [K, K], the sum of x x^T. None: inputs without any preference.
    """
    difference = matrix - quantised.dequantized()
    inside, whole = (part if hessian is None else part @ hessian for part in (difference, matrix))
    size = float(np.vdot(whole, matrix))
    return float(np.vdot(inside, difference)) / size if size > 0 else 0.0


def raised(errors: Mapping[str, float], sizes: Mapping[str, int], share: float) -> set[str]:
    """The matrices to keep at 8 bits: those with the largest error, until they make up a share of all weights."""
    wanted = share * sum(sizes[name] for name in errors)
    chosen: set[str] = set()
    taken = 0
    for name in sorted(errors, key=lambda name: errors[name], reverse=True):
        if taken >= wanted:
            break
        chosen.add(name)
        taken += sizes[name]
    return chosen


def smallest_share(rise_of: Callable[[float], float], limit: float, ladder: Sequence[float] = LADDER) -> float:
    """The smallest share on the ladder whose loss rises within the limit, by bisection; the largest when none is.

    Args:
        rise_of: Measures a share; falls as the share grows.
        limit: In nats a token.
        ladder: Shares, rising.
    """
    if rise_of(ladder[0]) <= limit:
        return ladder[0]
    low, high = 0, len(ladder) - 1  # low is over the limit; high is within it, or the best there is
    while high - low > 1:
        middle = (low + high) // 2
        if rise_of(ladder[middle]) <= limit:
            high = middle
        else:
            low = middle
    return ladder[high]
