"""Round weights to integers with a scale for each block, the scale chosen for the least squared error."""

import numpy as np
from numpy.typing import NDArray

from litseq.quantize.blocks_form import BlockWeight

Float = NDArray[np.float32]
SHRINK = np.linspace(1.0, 0.7, 13, dtype=np.float32)
"""How much of the range of a block its steps may span: cutting the extremes makes all other steps finer."""
TINY = np.float32(1e-30)


def fit(blocks: Float, bits: int, importance: Float | None = None) -> tuple[Float, NDArray[np.uint8]]:
    """Scales and zero points of blocks [..., block]; at 8 bits zero is in the middle, which costs nothing there.

    Args:
        blocks: The weights.
        bits: 4 or 8.
        importance: [block] what a squared error of each weight counts.
    """
    top = np.float32((1 << bits) - 1)
    if bits == 8:
        middle = np.float32(1 << (bits - 1))
        scale = np.maximum(np.abs(blocks).max(-1) / (middle - 1), TINY)
        return scale.astype(np.float32), np.full(scale.shape, middle, np.uint8)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    best_scale = best_zero = best_error = None
    for share in SHRINK:
        scale = np.maximum((high - low) * (share / top), TINY)
        zero = np.clip(np.rint(-low * share / scale), 0, top)
        error = np.square(
            decode(encode(blocks, scale[..., None], zero[..., None], bits), scale[..., None], zero[..., None]) - blocks
        )
        error = (error if importance is None else error * importance).sum(-1)
        if best_error is None:
            best_scale, best_zero, best_error = scale, zero, error
        else:
            better = error < best_error
            best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
            best_error = np.minimum(error, best_error)
    assert best_scale is not None and best_zero is not None
    return best_scale.astype(np.float32), best_zero.astype(np.uint8)


def encode(values: Float, scale: Float, zero: Float, bits: int) -> Float:
    """The nearest steps, 0 to 2**bits - 1, still as floats."""
    return np.clip(np.rint(values / scale) + zero, 0, (1 << bits) - 1)  # type: ignore[no-any-return]  # numpy types it Any


def decode(integers: Float, scale: Float, zero: Float) -> Float:
    """What steps stand for."""
    return (integers - zero) * scale


def round_to_nearest(name: str, matrix: Float, bits: int, block: int) -> BlockWeight:
    """A matrix [N, K] in blocks of K, each weight at its nearest step."""
    blocks = in_blocks(matrix, block)
    scales, zeros = fit(blocks, bits)
    integers = encode(blocks, scales[..., None], zeros[..., None].astype(np.float32), bits)
    return BlockWeight(name, bits, integers.astype(np.uint8), scales, zeros, matrix.shape[1])


def in_blocks(matrix: Float, block: int) -> Float:
    """[N, K] as [N, blocks, block], zeros behind the end."""
    outputs, width = matrix.shape
    count = -(-width // block)
    padded = matrix if width == count * block else np.pad(matrix, ((0, 0), (0, count * block - width)))
    return padded.reshape(outputs, count, block)
