"""The form `blocks`: onnxruntime's MatMulNBits, whose weights have a scale for each block of inputs.

The kernel quantises activations itself, block by block of each row, so no row sees another; it takes another path for
one row than for many, and the last bits may differ between batch sizes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from litseq.quantize.linears import Linear, Table
from litseq.quantize.nodes import CONTRIB, Writer

ACCURACY_LEVEL = 4
"""Activations are quantised to int8 for the product: two to five times faster than in fp32."""


@dataclass(frozen=True)
class BlockWeight:
    """A matrix [N, K] as unsigned integers, with a scale and a zero point for each block of K."""

    name: str
    bits: int
    integers: NDArray[np.uint8]
    """[N, blocks, block], padded where the block does not divide K."""
    scales: NDArray[np.float32]
    """[N, blocks]."""
    zeros: NDArray[np.uint8]
    """[N, blocks]."""
    width: int
    """K."""

    def packed(self) -> NDArray[np.uint8]:
        """[N, blocks, block * bits / 8], the lower bits first."""
        return _pack(self.integers, self.bits)

    def stored_zeros(self) -> NDArray[np.uint8] | None:
        """[N, blocks * bits / 8], or None where all are in the middle, as the operators assume."""
        return None if (self.zeros == 1 << (self.bits - 1)).all() else _pack(self.zeros, self.bits)

    def dequantized(self) -> NDArray[np.float32]:
        """[N, K]."""
        zeros = self.zeros[..., None].astype(np.float32)
        values = (self.integers.astype(np.float32) - zeros) * self.scales[..., None]
        return values.reshape(len(values), -1)[:, : self.width]


def block_size(width: int, wanted: int) -> int:
    """The largest block up to `wanted` that divides `width`, or `wanted` with padding."""
    return next((size for size in (128, 64, 32, 16) if size <= wanted and width % size == 0), min(wanted, 32))


class BlocksForm:
    """Writes the nodes of one graph."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def linear(self, linear: Linear, weight: BlockWeight) -> None:
        """Replace a product."""
        node, write = linear.node, self.writer
        outputs, _, block = weight.integers.shape
        stored = weight.stored_zeros()
        zeros = None if stored is None else write.constant(f"{weight.name}.zeros", stored)
        value = write.node(
            node, "MatMulNBits",
            [
                linear.activation, write.constant(f"{weight.name}.blocks", weight.packed()),
                write.constant(f"{weight.name}.scales", weight.scales), zeros, None, linear.bias,
            ],
            f"{node.outputs[0].name}.product", CONTRIB,
            K=weight.width, N=outputs, bits=weight.bits, block_size=block, accuracy_level=ACCURACY_LEVEL,
        )  # fmt: skip
        write.replace(node, value)

    def table(self, table: Table, weight: BlockWeight) -> None:
        """Replace a gather; the bytes are those that a product with the same weight reads."""
        node, write = table.node, self.writer
        rows, _, block = weight.integers.shape
        inputs = [
            write.constant(f"{weight.name}.rows", weight.packed().reshape(rows, -1)), table.indices,
            write.constant(f"{weight.name}.scales", weight.scales),
        ]  # fmt: skip
        if (zeros := weight.stored_zeros()) is not None:
            inputs.append(write.constant(f"{weight.name}.zeros", zeros))
        value = write.node(
            node, "GatherBlockQuantized", inputs, f"{node.outputs[0].name}.gathered", CONTRIB,
            bits=weight.bits, block_size=block, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        if weight.integers[0].size != weight.width:
            ends = write.constant(f"quantize.width{weight.width}", np.array([weight.width], np.int64))
            starts = write.constant("quantize.start", np.array([0], np.int64))
            axes = write.constant("quantize.last", np.array([-1], np.int64))
            value = write.node(node, "Slice", [value, starts, ends, axes], f"{node.outputs[0].name}.cut")
        write.replace(node, value)


def _pack(values: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Values of the last axis at `bits` bits each, the first in the lower bits."""
    if bits == 8:
        return values
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros_like(values[..., :1])], -1)
    return np.bitwise_or(values[..., 0::2], np.left_shift(values[..., 1::2], np.uint8(4)))
