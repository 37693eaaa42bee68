"""Round the inputs of a matrix one after another, and let those not yet rounded make up for the error.

GPTQ (Frantar et al., https://arxiv.org/abs/2210.17323): with inputs x, the error of a product is (w - q) H (w - q)^T for
H = sum of x x^T. When an input is rounded, the best answer of those not yet rounded is read off the Cholesky factor of
the inverse of H. Large inputs are rounded first, while many are left to make up for them (`act_order` of the authors'
code), so the scales of the blocks are settled before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litseq.quantize import rounding
from litseq.quantize.blocks_form import BlockWeight
from litseq.quantize.rounding import decode, encode, in_blocks

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: inputs that the calibration texts hardly use keep their weight."""
CHUNK = 128
"""Inputs rounded before the rest of the matrix is updated at once."""


@dataclass(frozen=True)
class Sensitivity:
    """What errors in the K inputs of a product cost, and how one makes up for another."""

    order: NDArray[np.intp]
    """[K] the inputs, the largest first."""
    factor: NDArray[np.float32]
    """[K, K] the upper triangular U with U^T U = (H + damping)^-1, the inputs in `order`."""

    @classmethod
    def of(cls, hessian: NDArray[np.float32]) -> Sensitivity:
        """Of H [K, K]: from the Cholesky factor read backwards, H = R R^T with R upper triangular, so U = R^-1."""
        damped = hessian.astype(np.float64)
        mean = float(np.diagonal(damped).mean()) or 1.0
        damped[np.diag_indices_from(damped)] += DAMPING * mean
        order = np.argsort(-np.diagonal(damped), kind="stable")
        lower = np.linalg.cholesky(damped[np.ix_(order[::-1], order[::-1])])
        return cls(order, np.linalg.inv(lower[::-1, ::-1]).astype(np.float32))

    def importance(self) -> NDArray[np.float32]:
        """[K] what a squared error of each input costs when all others make up for it: 1 / diag((H + damping)^-1)."""
        found = np.empty(len(self.order), np.float32)
        found[self.order] = np.reciprocal(np.square(self.factor).sum(0))
        return found


def compensate(name: str, matrix: NDArray[np.float32], sensitivity: Sensitivity, bits: int, block: int) -> BlockWeight:
    """A matrix [N, K] in blocks of K, rounded so that products with the calibrated inputs change least.

    Args:
        name: Of the weight.
        matrix: What to round.
        sensitivity: Of its inputs.
        bits: 4 or 8.
        block: Inputs that share a scale.
    """
    outputs, width = matrix.shape
    order, factor = sensitivity.order, sensitivity.factor
    importance = in_blocks(sensitivity.importance()[None], block)[0]
    scales, zeros = rounding.fit(in_blocks(matrix, block), bits, importance)
    steps, middles = scales.T.copy(), zeros.T.astype(np.float32)  # [blocks, N]: a block's are one line of memory
    integers = np.full((steps.shape[0] * block, outputs), 1 << (bits - 1), np.uint8)
    left = matrix.T[order]  # [K, N]
    for start in range(0, width, CHUNK):
        end = min(start + CHUNK, width)
        errors = np.empty((end - start, outputs), np.float32)
        for i in range(start, end):
            scale, zero = steps[order[i] // block], middles[order[i] // block]
            integers[order[i]] = chosen = encode(left[i], scale, zero, bits)
            errors[i - start] = (left[i] - decode(chosen, scale, zero)) / factor[i, i]
            if i + 1 < end:
                left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - start]
        if end < width:
            left[end:] -= factor[start:end, end:].T @ errors
    shaped = np.ascontiguousarray(integers.T).reshape(outputs, -1, block)
    return BlockWeight(name, bits, shaped, scales, zeros, width)
