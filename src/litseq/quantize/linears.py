"""Find what can be quantised in a graph: products with a constant matrix, and tables that are gathered from."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

MIN_ELEMENTS = 1024
"""Smaller matrices stay as they are: they cost neither memory nor time."""


@dataclass(frozen=True)
class Linear:
    """A node that multiplies an activation [..., K] by a constant matrix, K inputs to N outputs."""

    node: ir.Node
    weight: ir.Value
    transposed: bool
    """The weight is stored as [N, K], a row for each output, and not as [K, N]."""
    bias: ir.Value | None = None

    @property
    def activation(self) -> ir.Value:
        """What is multiplied."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    def matrix(self) -> NDArray[np.float32]:
        """The weight as [N, K]."""
        array = constant(self.weight)
        return array if self.transposed else np.ascontiguousarray(array.T)


@dataclass(frozen=True)
class Table:
    """A node that gathers rows of a constant matrix [V, D]."""

    node: ir.Node
    weight: ir.Value

    @property
    def indices(self) -> ir.Value:
        """Which rows."""
        value = self.node.inputs[1]
        assert value is not None
        return value


def find_linears(model: ir.Model) -> Iterator[Linear]:
    """Every product with a constant matrix, those inside the branches of an `If` too, in the order of the graph."""
    for node in model.graph.all_nodes():
        if node.domain != "" or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if not is_matrix(weight):
            continue
        assert weight is not None
        if node.op_type == "MatMul":
            yield Linear(node, weight, transposed=False)
        elif node.op_type == "Gemm" and _is_plain(node):
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if bias is None or (bias.shape is not None and bias.shape.rank() == 1):
                yield Linear(node, weight, bool(_number(node, "transB", 0)), bias)


def find_tables(model: ir.Model) -> Iterator[Table]:
    """Every gather of rows of a constant matrix."""
    for node in model.graph.all_nodes():
        if (
            node.op_type == "Gather"
            and node.domain == ""
            and is_matrix(node.inputs[0])
            and not _number(node, "axis", 0)
        ):
            assert node.inputs[0] is not None
            yield Table(node, node.inputs[0])


def is_matrix(value: ir.Value | None) -> bool:
    """Whether a value is a constant fp32 matrix that is worth quantising."""
    if value is None or value.const_value is None or value.producer() is not None or value.is_graph_input():
        return False
    tensor = value.const_value
    return tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2 and tensor.size >= MIN_ELEMENTS


def constant(value: ir.Value) -> NDArray[np.float32]:
    """The content of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def _is_plain(node: ir.Node) -> bool:
    return (_number(node, "alpha", 1.0), _number(node, "beta", 1.0), _number(node, "transA", 0)) == (1.0, 1.0, 0)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value
