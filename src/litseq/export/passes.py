"""Passes over an exported graph: weights stored as the kernels read them, and what onnx has no torch op for.

They look at single nodes and initializers, never at the shape of a model, so they hold for whatever a subclass computes.
"""

from collections.abc import Iterable
from typing import Any, TypeGuard

import numpy as np
import onnx_ir as ir

from litseq.errors import ExportError
from litseq.export.lowering import CONTRIB_DOMAIN, GQA_QUERY_SEQLENS, LITSEQ_DOMAIN, PREFIX_ATTENTION

IN_PLACE_OPS = {"GroupQueryAttention": (3, 4), "ScatterElements": (0,), "TensorScatter": (0,)}
"""Nodes that may write a cache output over the cache input at these places."""


def fold_weight_views(graph: ir.Graph) -> None:
    """Replace Slice and Transpose of an initializer by an initializer.

    onnxruntime would do the same when it loads the graph, and keep both copies meanwhile.
    """
    for node in list(graph):
        value = node.inputs[0] if node.inputs else None
        if node.op_type not in ("Slice", "Transpose") or not _is_initializer(value):
            continue
        if not all(_is_constant(i) for i in node.inputs[1:] if i is not None):
            continue
        assert value is not None and value.const_value is not None
        array = value.const_value.numpy()
        result = np.ascontiguousarray(_evaluate(node, array))
        name = f"{value.name}.{node.outputs[0].name}"
        folded = ir.Value(name=name, const_value=ir.tensor(result, name=name))
        folded.shape, folded.type = ir.Shape(result.shape), ir.TensorType(value.const_value.dtype)
        graph.initializers[name] = folded
        node.outputs[0].replace_all_uses_with(folded)
        graph.remove(node, safe=True)
    drop_unused_initializers(graph)


def _evaluate(node: ir.Node, array: np.ndarray) -> np.ndarray:
    if node.op_type == "Transpose":
        return array.transpose(node.attributes["perm"].as_ints() if "perm" in node.attributes else None)
    starts, ends, axes, steps = ([int(v) for v in _constant(i)] for i in node.inputs[1:5])
    index = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end, step)
    return array[tuple(index)]


def _is_initializer(value: ir.Value | None) -> bool:
    return (
        value is not None and value.const_value is not None and value.producer() is None and not value.is_graph_input()
    )


def _is_constant(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return _is_initializer(value) or (producer is not None and producer.op_type == "Constant")


def _constant(value: ir.Value | None) -> np.ndarray:
    if value is None:
        raise AssertionError("a constant input is missing")
    if value.const_value is None:
        producer = value.producer()
        assert producer is not None
        return np.atleast_1d(producer.attributes["value"].as_tensor().numpy())
    return value.const_value.numpy()


def drop_unused_initializers(graph: ir.Graph) -> None:
    """Forget initializers that nothing reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def expand_prefix_attention(graph: ir.Graph) -> None:
    """Write out attention with a visible prefix.

    `GroupQueryAttention` can be told to look both ways, but not in one call with ragged chunks, and not row by row. A
    prefix is read in one call of its own, so an `If` around that one node, on whether there is a prefix, picks the form;
    both read the same weights and write the same cache in place.
    """
    nodes = [node for node in graph if node.op_type == PREFIX_ATTENTION]
    if not nodes:
        return
    prefix_lengths = nodes[0].inputs[-1]
    zero = _initializer(graph, "prefix.zero", np.array(0, np.int32))
    longest = ir.node("ReduceMax", [prefix_lengths], {"keepdims": 0})
    has_prefix = ir.node("Greater", [longest.outputs[0], zero])
    longest.outputs[0].name, has_prefix.outputs[0].name = "prefix.longest", "prefix.any"
    graph.insert_before(graph[0], [longest, has_prefix])
    for node in nodes:
        branches = [_attention_branch(node, causal) for causal in (False, True)]
        choice = ir.node(
            "If",
            [has_prefix.outputs[0]],
            {"then_branch": branches[0], "else_branch": branches[1]},
            num_outputs=3,
        )
        for old, new in zip(node.outputs, choice.outputs, strict=True):
            new.name, new.shape, new.type = old.name, old.shape, old.type
        graph.insert_before(node, choice)
        _replace(graph, node, list(choice.outputs))


def _attention_branch(node: ir.Node, causal: bool) -> ir.Graph:
    inputs = list(node.inputs[: GQA_QUERY_SEQLENS + 1])
    attributes: dict[str, Any] = {name: attribute.value for name, attribute in node.attributes.items()}
    if not causal:
        inputs[GQA_QUERY_SEQLENS] = None
        attributes["causal"] = 0
    inner = ir.node("GroupQueryAttention", inputs, attributes, domain=CONTRIB_DOMAIN, num_outputs=3)
    kind = "causal" if causal else "prefix"
    for place, (output, outer) in enumerate(zip(inner.outputs, node.outputs, strict=True)):
        output.name = f"{outer.name}.{kind}.{place}"
        output.type, output.shape = outer.type, outer.shape
    return ir.Graph([], list(inner.outputs), nodes=[inner], name=f"{node.outputs[0].name}.{kind}")


def expand_attention_masks(graph: ir.Graph) -> None:
    """Give every mask one line a query: onnxruntime's `Attention` broadcasts over batch and heads only."""
    for node in list(graph.all_nodes()):
        mask = node.inputs[3] if node.op_type == "Attention" and len(node.inputs) > 3 else None
        if mask is None or mask.shape is None or mask.shape.rank() < 2 or mask.shape[-2] != 1:
            continue
        query = node.inputs[0]
        assert query is not None and node.graph is not None
        one = _initializer(graph, f"{mask.name}.one", np.array([1], np.int64))
        length = ir.node("Shape", [query], {"start": 2, "end": 3})
        shape = ir.node("Concat", [length.outputs[0], one], {"axis": 0})
        expand = ir.node("Expand", [mask, shape.outputs[0]])
        for made, part in ((length, "length"), (shape, "shape"), (expand, "expanded")):
            made.outputs[0].name = f"{node.outputs[0].name}.mask.{part}"
        node.graph.insert_before(node, [length, shape, expand])
        node.replace_input_with(3, expand.outputs[0])


def add_search_head(graph: ir.Graph, logits: str) -> None:
    """Give the graph the k best tokens and their log-probabilities, and nothing to do when k is 0.

    Adds the input `top_k` (int64 scalar) and the outputs `top_ids` int64 [N, k] and `top_log_probs` float32 [N, k].
    """
    value = next(v for v in graph.outputs if v.name == logits)
    top_k = ir.Value(name="top_k", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT64))
    graph.inputs.append(top_k)
    zero = _initializer(graph, "search.zero", np.array(0, np.int64))
    one = _initializer(graph, "search.one", np.array([1], np.int64))
    wanted = ir.node("Greater", [top_k, zero])
    wanted.outputs[0].name = "search.wanted"

    log_probs = ir.node("LogSoftmax", [value], {"axis": -1})
    count = ir.node("Reshape", [top_k, one])
    best = ir.node(
        "TopK", [log_probs.outputs[0], count.outputs[0]], {"axis": -1, "largest": 1, "sorted": 1}, num_outputs=2
    )
    log_probs.outputs[0].name, count.outputs[0].name = "search.log_probs", "search.count"
    nothing = [
        ir.node("Constant", [], {"value": ir.tensor(np.zeros((0, 0), dtype))}) for dtype in (np.float32, np.int64)
    ]
    outputs = ("top_log_probs", ir.DataType.FLOAT), ("top_ids", ir.DataType.INT64)
    for place, (name, dtype) in enumerate(outputs):
        for branch, output in (("some", best.outputs[place]), ("none", nothing[place].outputs[0])):
            output.name, output.type = f"search.{name}.{branch}", ir.TensorType(dtype)
    some = ir.Graph([], list(best.outputs), nodes=[log_probs, count, best], name="search.some")
    none = ir.Graph([], [n.outputs[0] for n in nothing], nodes=nothing, name="search.none")
    choice = ir.node("If", [wanted.outputs[0]], {"then_branch": some, "else_branch": none}, num_outputs=2)
    for output, (name, dtype) in zip(choice.outputs, outputs, strict=True):
        output.name, output.type, output.shape = name, ir.TensorType(dtype), ir.Shape(["rows", "k"])
    graph.extend([wanted, choice])
    graph.outputs.extend(reversed(choice.outputs))


def writes_in_place(graph: ir.Graph, past: str, present: str) -> bool:
    """Whether `present` may be bound to the memory of `past`: one node reads the one and writes the other."""
    value = next((v for v in graph.inputs if v.name == past), None)
    out = next((v for v in graph.outputs if v.name == present), None)
    if value is None or out is None or (producer := out.producer()) is None:
        return False
    readers = {user for user, _ in value.uses() if user.op_type != "Shape"}  # a shape is no content
    if producer.op_type == "If":
        inner = {
            node
            for attribute in producer.attributes.values()
            for node in attribute.as_graph()
            if any(i is value for i in node.inputs)
        }
        return readers <= inner and all(_overwrites(node, value) for node in inner)
    return readers == {producer} and _overwrites(producer, value)


def copy_before_overwrite(graph: ir.Graph, past: str, present: str) -> None:
    """Let a cache be updated in place that several nodes read.

    Every reader gets a copy, and the node that writes `present` must need that copy, so that it cannot run before it.

    A state of fixed size may be written anew without a look at the old one (the last token, say): then a choice between the
    copy and the new one, which always falls on the new one, orders the two.

    Raises:
        ExportError: a cache that grows is written so.
    """
    value = next(v for v in graph.inputs if v.name == past)
    readers = list(value.uses())
    # A Max of one tensor is a copy that onnxruntime does not optimise away, as it does Identity, + 0 and * 1.
    copy = ir.node("Max", [value])
    copy.outputs[0].name, copy.outputs[0].type = f"{past}.before", value.type
    copy.outputs[0].shape = value.shape
    for node, place in readers:
        node.replace_input_with(place, copy.outputs[0])
    graph.insert_before(graph[0], copy)
    place, out = next((i, v) for i, v in enumerate(graph.outputs) if v.name == present)
    if _depends_on(out, copy):
        return
    if not _is_fixed(value.shape) or not _is_fixed(out.shape) or value.shape[1:] != out.shape[1:]:
        raise ExportError(
            f"the cache {present} is written without regard to {past}: an attention must carry on what its cache held, "
            "for example with litseq.nn.ops.write_cache"
        )

    never = _initializer(graph, f"{present}.never", np.array([False]))
    choice = ir.node("Where", [never, copy.outputs[0], out])
    out.name, choice.outputs[0].name = f"{present}.written", present
    choice.outputs[0].type, choice.outputs[0].shape = out.type, out.shape
    graph.append(choice)
    graph.outputs[place] = choice.outputs[0]


def _is_fixed(shape: ir.Shape | None) -> TypeGuard[ir.Shape]:
    return shape is not None and all(isinstance(size, int) for size in shape[1:])


def _depends_on(value: ir.Value, node: ir.Node) -> bool:
    seen: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        producer = waiting.pop()
        if producer is node:
            return True
        if producer is not None and producer not in seen:
            seen.add(producer)
            inner = [n for a in producer.attributes.values() if a.type == ir.AttributeType.GRAPH for n in a.as_graph()]
            waiting += [v.producer() for n in (producer, *inner) for v in n.inputs if v is not None]
    return False


def _overwrites(node: ir.Node, value: ir.Value) -> bool:
    return any(place < len(node.inputs) and node.inputs[place] is value for place in IN_PLACE_OPS.get(node.op_type, ()))


def remove_litseq_domain(model: ir.Model) -> None:
    """Forget the domain of stand-ins, once all are written out."""
    left = [node.op_type for node in model.graph if node.domain == LITSEQ_DOMAIN]
    assert not left, f"stand-ins left in the graph: {left}"
    model.opset_imports.pop(LITSEQ_DOMAIN, None)
    model.opset_imports[CONTRIB_DOMAIN] = 1


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.initializers[name] = value
    return value


def _replace(graph: ir.Graph, node: ir.Node, values: Iterable[ir.Value]) -> None:
    for old, new in zip(node.outputs, values, strict=True):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
