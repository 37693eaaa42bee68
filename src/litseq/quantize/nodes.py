"""Put nodes and constants into a graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

CONTRIB = "com.microsoft"


class Writer:
    """Writes nodes before a given node of a model, and constants into its main graph, each content once."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        model.graph.opset_imports.setdefault(CONTRIB, 1)
        self._constants: dict[tuple[str, bytes], ir.Value] = {}
        self._names: dict[str, int] = {}

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """An initializer; branches of an `If` see those of the main graph."""
        array = np.ascontiguousarray(array)
        small = array.nbytes <= 64
        key = (f"{array.dtype}{array.shape}", array.tobytes() if small else name.encode())
        if key not in self._constants:
            unique = self.unique(name)
            value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
            value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
            self.model.graph.initializers[unique] = value
            self._constants[key] = value
        return self._constants[key]

    def node(
        self,
        before: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Value:
        """The output of a new node that stands before another."""
        node = ir.node(op, list(inputs), attributes or None, domain=domain)
        node.outputs[0].name = self.unique(name)
        assert before.graph is not None
        before.graph.insert_before(before, node)
        return node.outputs[0]

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let a new value stand for the output of a node, under its name, and remove the node."""
        old = node.outputs[0]
        name = old.name
        old.name = f"{name}.replaced"
        value.name, value.shape, value.type = name, old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        assert node.graph is not None
        node.graph.remove(node, safe=True)

    def unique(self, name: str) -> str:
        """A name nothing has yet."""
        taken = self._names.get(name)
        self._names[name] = (taken or 0) + 1
        return name if taken is None else f"{name}.{taken}"
