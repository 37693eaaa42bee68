"""The form `rows`: every row of an activation gets a scale of its own, in the graph, and products are of integers.

    a  = max |x|                                          one a row
    xq = round(127 x / a) + 128                           uint8
    y  = (xq - 128) @ Wq * w_scale / 127 * a (+ bias)     Wq int8, one scale an output

Sums of integers are exact, so a row's result does not depend on the rows beside it, to the bit. A row of zeros becomes
0 / 0, then some integer, and then that times 0: no test for it is needed.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from litseq.quantize.linears import Linear, Table
from litseq.quantize.nodes import CONTRIB, Writer

LEVELS = 127
TINY = 1e-30


@dataclass(frozen=True)
class RowWeight:
    """A matrix [N, K] as integers with a scale for each of its N rows."""

    name: str
    integers: NDArray[np.int8]
    scales: NDArray[np.float32]


def round_rows(name: str, matrix: NDArray[np.float32]) -> RowWeight:
    """Round a matrix [N, K] to the nearest of 255 steps, row by row."""
    scales = np.maximum(np.abs(matrix).max(1), TINY) / LEVELS
    return RowWeight(name, np.rint(matrix / scales[:, None]).astype(np.int8), scales.astype(np.float32))


@dataclass
class RowsForm:
    """Writes the nodes of one graph."""

    writer: Writer
    _activations: dict[tuple[ir.Value, ir.Graph], tuple[ir.Value, ir.Value]] = field(default_factory=dict)

    def linear(self, linear: Linear, weight: RowWeight, shared: bool) -> None:
        """Replace a product; `shared` says that a table reads the same weight, as [N, K]."""
        node, write = linear.node, self.writer
        quantised, scale = self._activation(node, linear.activation)
        if shared:
            # onnxruntime transposes once, when it loads the graph; the file holds the rows that the table reads.
            stored = write.constant(f"{weight.name}.int8", weight.integers)
            integers = write.node(node, "Transpose", [stored], f"{weight.name}.columns", perm=[1, 0])
        else:
            integers = write.constant(f"{weight.name}.int8", weight.integers.T)
        step, middle = self._steps()
        product = write.node(
            node, "MatMulIntegerToFloat",
            [quantised, integers, step, write.constant(f"{weight.name}.scales", weight.scales), middle],
            f"{node.outputs[0].name}.integers", CONTRIB,
        )  # fmt: skip
        value = write.node(node, "Mul", [product, scale], f"{node.outputs[0].name}.scaled")
        if linear.bias is not None:
            value = write.node(node, "Add", [value, linear.bias], f"{node.outputs[0].name}.biased")
        write.replace(node, value)

    def table(self, table: Table, weight: RowWeight) -> None:
        """Replace a gather."""
        node, write = table.node, self.writer
        stored = write.constant(f"{weight.name}.int8", weight.integers)
        scales = write.constant(f"{weight.name}.row_scales", weight.scales[:, None])
        rows = write.node(node, "Gather", [stored, table.indices], f"{node.outputs[0].name}.rows", axis=0)
        scale = write.node(node, "Gather", [scales, table.indices], f"{node.outputs[0].name}.row_scales", axis=0)
        numbers = write.node(node, "Cast", [rows], f"{node.outputs[0].name}.numbers", to=ir.DataType.FLOAT)
        write.replace(node, write.node(node, "Mul", [numbers, scale], f"{node.outputs[0].name}.values"))

    def _activation(self, node: ir.Node, value: ir.Value) -> tuple[ir.Value, ir.Value]:
        """A value as integers [..., K] and their scales [..., 1]; products that read the same value share them."""
        assert node.graph is not None
        key = (value, node.graph)
        if key not in self._activations:
            write, name = self.writer, value.name
            axes = write.constant("quantize.last", np.array([-1], np.int64))
            size = write.node(node, "Abs", [value], f"{name}.abs")
            scale = write.node(node, "ReduceMax", [size, axes], f"{name}.largest", keepdims=1)
            share = write.node(node, "Div", [value, scale], f"{name}.share")
            integers = write.node(node, "QuantizeLinear", [share, *self._steps()], f"{name}.integers")
            self._activations[key] = (integers, scale)
        return self._activations[key]

    def _steps(self) -> tuple[ir.Value, ir.Value]:
        """What one step of an activation stands for, and the integer that stands for zero."""
        step = self.writer.constant("quantize.step", np.array(1 / LEVELS, np.float32))
        return step, self.writer.constant("quantize.middle", np.array(128, np.uint8))
