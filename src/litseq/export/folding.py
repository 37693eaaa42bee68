"""What a module computes of its weights alone, computed once: a scaled or normalised table, weight norm, merged adapters.

torch's exporter folds small constants only. onnxruntime would compute the others whenever it loads the graph, keep them in
memory of its own, and quantisation would not see that they are weights.
"""

import numpy as np
import onnx_ir as ir
import onnxruntime

from litseq.export.passes import drop_unused_initializers

_CHANCE = ("Bernoulli", "Dropout", "Multinomial", "RandomNormalLike", "RandomUniformLike")
_SMALL = 1024
"""Bytes that a constant may grow to, whatever it is made of."""


def fold_constants(graph: ir.Graph) -> None:
    """Replace what depends on initializers alone by initializers, but for what is larger than all that it is made of."""
    constant = _constant_nodes(graph)
    for value in [value for node in constant for value in node.outputs if _is_read_outside(value, constant)]:
        nodes = _made_by(value)
        weights = {v: v.const_value for node in nodes for v in node.inputs if v is not None and v.producer() is None}
        array = _evaluate(value, nodes, graph.opset_imports[""])
        if array.nbytes > max(sum(tensor.nbytes for tensor in weights.values() if tensor is not None), _SMALL):
            continue
        name = f"{value.name}.folded"
        folded = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        folded.shape, folded.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        graph.initializers[name] = folded
        value.replace_all_uses_with(folded)
    for node in reversed(constant):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    drop_unused_initializers(graph)


def _constant_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Nodes that give the same in every call, in the order in which they run."""
    known: set[ir.Value] = set()
    found = []
    for node in graph:
        has_graphs = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if node.domain != "" or has_graphs or node.op_type in _CHANCE:
            continue
        if node.op_type == "Constant" or (node.inputs and all(_is_known(value, known) for value in node.inputs)):
            known.update(node.outputs)
            found.append(node)
    return found


def _is_known(value: ir.Value | None, known: set[ir.Value]) -> bool:
    if value is None or value in known:
        return True
    return value.const_value is not None and value.producer() is None and not value.is_graph_input()


def _is_read_outside(value: ir.Value, constant: list[ir.Node]) -> bool:
    """Whether something that is computed in every call reads it."""
    producer = value.producer()
    if producer is None or producer.op_type == "Constant" or value.is_graph_output():
        return False
    return any(user not in constant for user, _ in value.uses())


def _made_by(value: ir.Value) -> list[ir.Node]:
    """The nodes that a value is made by, in the order in which they run."""
    order: dict[ir.Node, None] = {}

    def visit(node: ir.Node | None) -> None:
        if node is not None and node not in order:
            for value in node.inputs:
                visit(None if value is None else value.producer())
            order[node] = None

    visit(value.producer())
    return list(order)


def _evaluate(value: ir.Value, nodes: list[ir.Node], opset: int) -> np.ndarray:
    """A value by onnxruntime; the initializers go in as inputs, because they may be too large for a model in memory."""
    copies: dict[ir.Value, ir.Value] = {}
    feeds: dict[str, np.ndarray] = {}
    inputs, copied = [], []
    for node in nodes:
        for old in node.inputs:
            if old is None or old in copies:
                continue
            assert old.const_value is not None
            kind = ir.TensorType(old.const_value.dtype)
            given = ir.Value(name=f"v{len(copies)}", shape=ir.Shape(old.const_value.shape.numpy()), type=kind)
            feeds[str(given.name)] = old.const_value.numpy()
            copies[old] = given
            inputs.append(given)
        given_inputs = [None if old is None else copies[old] for old in node.inputs]
        attributes = dict(node.attributes.items())
        new = ir.node(node.op_type, given_inputs, attributes, num_outputs=len(node.outputs))
        for old, output in zip(node.outputs, new.outputs, strict=True):
            output.name = f"v{len(copies)}"
            copies[old] = output
        copied.append(new)
    result = copies[value]
    result.type = value.type
    graph = ir.Graph(inputs, [result], nodes=copied, opset_imports={"": opset}, name="constant")
    model = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])
