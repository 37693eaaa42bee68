"""Round the inputs of a matrix one after another, and let those not yet rounded make up for the error.

GPTQ (Frantar et al., https://arxiv.org/abs/2210.17323): with inputs x, the error of a product is (w - q) H (w - q)^T for
H = sum of x x^T. When input i is rounded, the best answer of the inputs behind it is read off the Cholesky factor of
the inverse of H.
"""

import numpy as np
from numpy.typing import NDArray

from litseq.quantize import rounding
from litseq.quantize.blocks_form import BlockWeight
from litseq.quantize.rounding import decode, encode

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: inputs that the calibration texts hardly use keep their weight."""
CHUNK = 128
"""Inputs rounded before the rest of the matrix is updated at once; every block size divides it."""


def inverse_factor(hessian: NDArray[np.float32]) -> NDArray[np.float32]:
    """The upper triangular U with U^T U = (H + damping)^-1.

    From the Cholesky factor of H read backwards: H = R R^T with R upper triangular, so U = R^-1.
    """
    damped = hessian.astype(np.float64)
    diagonal = np.diagonal(damped)
    mean = float(diagonal.mean()) or 1.0
    damped[np.diag_indices_from(damped)] += DAMPING * mean
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    return np.linalg.inv(lower[::-1, ::-1]).astype(np.float32)


def compensate(
    name: str, matrix: NDArray[np.float32], factor: NDArray[np.float32], bits: int, block: int
) -> BlockWeight:
    """A matrix [N, K] in blocks of K, rounded so that products with the calibrated inputs change least.

    Args:
        name: Of the weight.
        matrix: What to round.
        factor: [K, K] from `inverse_factor`.
        bits: 4 or 8.
        block: Inputs that share a scale.
    """
    outputs, width = matrix.shape
    count = -(-width // block)
    left = np.ascontiguousarray(matrix.T)  # [K, N]: an input is one line of memory
    middle = 1 << (bits - 1)
    integers = np.full((count * block, outputs), middle, np.uint8)
    scales = np.zeros((count, outputs), np.float32)
    zeros = np.full((count, outputs), middle, np.uint8)
    for start in range(0, width, CHUNK):
        end = min(start + CHUNK, width)
        errors = np.empty((end - start, outputs), np.float32)
        for i in range(start, end):
            group = i // block
            if i % block == 0:
                inside = slice(i, min(i + block, width))
                importance = np.reciprocal(np.square(np.diagonal(factor)[inside]))
                scales[group], zeros[group] = rounding.fit(left[inside].T, bits, importance)
            scale, zero = scales[group], zeros[group].astype(np.float32)
            chosen = encode(left[i], scale, zero, bits)
            integers[i] = chosen
            errors[i - start] = (left[i] - decode(chosen, scale, zero)) / factor[i, i]
            if i + 1 < end:
                left[i + 1 : end] -= factor[i, i + 1 : end, None] * errors[i - start]
        if end < width:
            left[end:] -= factor[start:end, end:].T @ errors
    shaped = np.ascontiguousarray(integers.T).reshape(outputs, count, block)
    return BlockWeight(name, bits, shaped, np.ascontiguousarray(scales.T), np.ascontiguousarray(zeros.T), width)
