"""The passes, on graphs of a few nodes."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from litseq.errors import ExportError
from litseq.export import passes
from litseq.quantize.weights import WEIGHTS_FILE, save_graphs

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=FLOAT)


def weight(name: str, array: np.ndarray) -> ir.Value:
    return ir.Value(name=name, const_value=ir.tensor(array, name=name), type=FLOAT, shape=ir.Shape(array.shape))


def named(node: ir.Node, *names: str) -> ir.Node:
    for output, name in zip(node.outputs, names, strict=True):
        output.name, output.type = name, FLOAT
    return node


def model_of(graph: ir.Graph) -> ir.Model:
    return ir.Model(graph, ir_version=10)


def graph_of(inputs: list[ir.Value], outputs: list[ir.Value], nodes: list[ir.Node], *weights: ir.Value) -> ir.Graph:
    return ir.Graph(inputs, outputs, nodes=nodes, initializers=weights, opset_imports={"": 23}, name="test")


def run(graph: ir.Graph, tmp_path: object, **feeds: np.ndarray) -> list[np.ndarray]:
    save_graphs({"m.onnx": model_of(graph)}, tmp_path)
    return onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, feeds)


def test_views_of_weights_become_weights(tmp_path: object) -> None:
    full = np.arange(12, dtype=np.float32).reshape(4, 3)
    w, x = weight("w", full), value("x", 1, 3)
    bounds = [weight(n, np.array([v], np.int64)) for n, v in (("s", 1), ("e", 3), ("a", 0), ("t", 1))]
    cut = named(ir.node("Slice", [w, *bounds]), "cut")
    turned = named(ir.node("Transpose", [cut.outputs[0]], {"perm": [1, 0]}), "turned")
    product = named(ir.node("MatMul", [x, turned.outputs[0]]), "y")
    graph = graph_of([x], [product.outputs[0]], [cut, turned, product], w, *bounds)
    passes.fold_weight_views(graph)
    assert [node.op_type for node in graph] == ["MatMul"]
    assert len(graph.initializers) == 1  # the whole one is gone
    rows = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(run(graph, tmp_path, x=rows)[0], rows @ full[1:3].T)


def scatter(past: ir.Value, present: str, new: ir.Value, index: ir.Value) -> ir.Node:
    return named(ir.node("ScatterElements", [past, index, new], {"axis": 1}), present)


def test_a_cache_with_one_reader_is_written_in_place() -> None:
    past, new, index = value("past", "b", "m"), value("new", "b", 1), value("index", "b", 1)
    write = scatter(past, "present", new, index)
    assert passes.writes_in_place(graph_of([past, new, index], [write.outputs[0]], [write]), "past", "present")


def run_in_place(graph: ir.Graph, directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """`out` and `present` of a graph, `present` in the memory of `past`, which holds threes; `new` holds ones."""
    save_graphs({"m.onnx": model_of(graph)}, directory)
    session = onnxruntime.InferenceSession(directory / "m.onnx")
    state, new_array, result = (np.full((2, 4), v, np.float32) for v in (3, 1, 0))
    binding = session.io_binding()
    for name, array in (("past", state), ("new", new_array)):
        binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    for name, array in (("present", state), ("out", result)):
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    return result, state


def test_a_cache_with_two_readers_is_copied_first(tmp_path: object) -> None:
    past, new = value("past", "b", 4), value("new", "b", 4)
    doubled = named(ir.node("Add", [past, past]), "doubled")
    present = named(ir.node("Add", [doubled.outputs[0], new]), "present")
    out = named(ir.node("Mul", [past, new]), "out")  # may run after `present` is written
    graph = graph_of([past, new], [out.outputs[0], present.outputs[0]], [doubled, present, out])
    assert not passes.writes_in_place(graph, "past", "present")
    passes.copy_before_overwrite(graph, "past", "present")
    result, state = run_in_place(graph, tmp_path)
    assert (result == 3).all()
    assert (state == 7).all()


def test_a_cache_that_grows_and_is_not_carried_on_is_refused() -> None:
    past, new = value("past", "b", "m", 4), value("new", "b", "m", 4)
    present = named(ir.node("Neg", [new]), "present")
    out = named(ir.node("Mul", [past, new]), "out")
    graph = graph_of([past, new], [out.outputs[0], present.outputs[0]], [present, out])
    with pytest.raises(ExportError, match="without regard to past"):
        passes.copy_before_overwrite(graph, "past", "present")


def test_a_state_that_is_written_anew_is_read_before(tmp_path: Path) -> None:
    past, new = value("past", "b", 4), value("new", "b", 4)
    present = named(ir.node("Neg", [new]), "present")
    present.outputs[0].shape = past.shape
    out = named(ir.node("Mul", [past, new]), "out")  # stands behind what overwrites `past`
    graph = graph_of([past, new], [out.outputs[0], present.outputs[0]], [present, out])
    passes.copy_before_overwrite(graph, "past", "present")
    result, state = run_in_place(graph, tmp_path)
    assert (result == 3).all()
    assert (state == -1).all()


def test_the_search_head_gives_log_probabilities_or_nothing(tmp_path: object) -> None:
    x = value("x", "n", 7)
    logits = named(ir.node("Neg", [x]), "logits")
    graph = graph_of([x], [logits.outputs[0]], [logits])
    passes.add_search_head(graph, "logits")
    rows = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    _, ids, log_probs = run(graph, tmp_path, x=rows, top_k=np.array(2, np.int64))
    expected = -rows - np.log(np.exp(-rows).sum(1, keepdims=True))
    np.testing.assert_array_equal(ids, np.argsort(-expected, axis=1)[:, :2])
    np.testing.assert_allclose(log_probs, np.sort(expected, axis=1)[:, :-3:-1], atol=1e-6)
    _, ids, log_probs = run(graph, tmp_path, x=rows, top_k=np.array(0, np.int64))
    assert ids.size == log_probs.size == 0


def test_equal_weights_of_two_graphs_are_stored_once(tmp_path: object) -> None:
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    models = {}
    for name, w in (("a.onnx", weight("w", array)), ("b.onnx", weight("other", array.copy()))):
        x = value("x", 1, 64)
        product = named(ir.node("MatMul", [x, w]), "y")
        models[name] = model_of(graph_of([x], [product.outputs[0]], [product], w))
    save_graphs(models, tmp_path)
    assert (tmp_path / WEIGHTS_FILE).stat().st_size == array.nbytes
    row = np.ones((1, 64), np.float32)
    for name in models:
        found = onnxruntime.InferenceSession(tmp_path / name).run(None, {"x": row})[0]
        np.testing.assert_allclose(found, row @ array, atol=1e-4)
