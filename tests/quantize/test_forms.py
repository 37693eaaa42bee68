"""The nodes that replace products and gathers, against numpy."""

import numpy as np
import onnx_ir as ir
import pytest

from litseq.quantize.apply import apply
from litseq.quantize.plan import find_weights
from litseq.quantize.rounding import round_to_nearest
from litseq.quantize.rows_form import round_rows
from litseq.quantize.weights import save_graphs
from litseq.runtime.processor import this_processor
from litseq.runtime.sessions import create_session

V, K = 70, 48


def initializer(graph, name, array):
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
    graph.initializers[name] = value
    return value


def model():
    """A table tied to a Gemm with a bias, two MatMuls of one input, one of them in the branches of an If."""
    generator = np.random.default_rng(0)

    def weight(*shape):
        return (0.2 * generator.standard_normal(shape)).astype(np.float32)

    arrays = {"table": weight(V, K), "one": weight(K, K), "two": weight(K, K), "bias": weight(V)}
    arrays["table"][5] = 0  # a row of zeros
    ids = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    flag = ir.Value(name="flag", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
    graph = ir.Graph([ids, flag], [], nodes=[], opset_imports={"": 23}, name="g")
    values = {name: initializer(graph, name, array) for name, array in arrays.items()}
    float_type = ir.TensorType(ir.DataType.FLOAT)

    def add(where, op, inputs, name, **attributes):
        node = ir.node(op, inputs, attributes or None)
        node.outputs[0].name, node.outputs[0].type = name, float_type
        where.append(node)
        return node.outputs[0]

    x = add(graph, "Gather", [values["table"], ids], "x", axis=0)
    a = add(graph, "MatMul", [x, values["one"]], "a")
    branches = {}
    for name in ("then_branch", "else_branch"):
        branch = ir.Graph([], [], nodes=[], name=name)
        out = add(branch, "MatMul", [x, values["two" if name == "then_branch" else "one"]], f"{name}.out")
        branch.outputs.append(out)
        branches[name] = branch
    b = add(graph, "If", [flag], "b", **branches)
    c = add(graph, "Add", [a, b], "c")
    logits = add(graph, "Gemm", [c, values["table"], values["bias"]], "logits", transB=1)
    logits.shape = ir.Shape(["n", V])
    graph.outputs.append(logits)
    return ir.Model(graph, ir_version=10), arrays


def quantised(directory, to_weight):
    made, arrays = model()
    weights = find_weights({"m.onnx": made})
    done = {weight.name: to_weight(weight) for weight in weights}
    apply({"m.onnx": made}, weights, done)
    save_graphs({"m.onnx": made}, directory)
    session = create_session(directory / "m.onnx", 1)  # exact on every processor
    return session, arrays, made, {weight.name.removesuffix(".outputs"): done[weight.name] for weight in weights}


def test_nodes_stay_in_order(tmp_path):
    """A matrix that is met first and read again behind others shares its last input with one of them."""
    x = ir.Value(name="x", shape=ir.Shape(["n", K]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 23}, name="g")
    generator = np.random.default_rng(0)
    one, two = (initializer(graph, n, generator.standard_normal((K, K)).astype(np.float32)) for n in ("one", "two"))
    for inputs, name in (([x, one], "y"), (["y", two], "a"), (["y", one], "b")):
        first = graph[0].outputs[0] if inputs[0] == "y" else inputs[0]
        node = ir.node("MatMul", [first, inputs[1]])
        node.outputs[0].name, node.outputs[0].type = name, x.type
        graph.append(node)
    graph.outputs.extend(node.outputs[0] for node in list(graph)[1:])
    made = ir.Model(graph, ir_version=10)
    weights = find_weights({"m.onnx": made})
    apply({"m.onnx": made}, weights, {weight.name: round_rows(weight.name, weight.matrix()) for weight in weights})
    known = {x, *made.graph.initializers.values()}
    for node in made.graph:
        assert set(node.inputs) <= known
        known |= set(node.outputs)


def operations(made):
    return [node.op_type for node in made.graph.all_nodes()]


def reference(ids, flag, table, one, two, bias, product):
    x = table[ids]
    y = product(x, one) + product(x, two if flag else one)
    return product(y, table.T) + bias


def has_exact_products():
    """Whether 8-bit products cannot overflow: on an x86 processor only with VNNI."""
    return not {"avx2", "fma"} <= this_processor().features or this_processor().has_vnni


@pytest.mark.skipif(
    not has_exact_products(),
    reason="without VNNI onnxruntime's 8-bit products overflow, and its exact way (session.x64quantprecision) does not"
    " reach the matrices inside the branches of this graph; no model of litseq has matrices there",
)
@pytest.mark.parametrize("flag", [True, False])
def test_rows_compute_their_formula(tmp_path, flag):
    session, arrays, made, done = quantised(tmp_path, lambda w: round_rows(w.name, w.matrix()))
    assert "MatMul" not in operations(made)
    assert "Gemm" not in operations(made)
    assert operations(made).count("ReduceMax") == 4  # x, x in each branch, c: shared between what reads it in a graph

    def product(x, weight):
        largest = np.abs(x).max(-1, keepdims=True)
        integers = np.rint(127 * np.divide(x, largest, out=np.zeros_like(x), where=largest > 0))
        scales = np.maximum(np.abs(weight).max(0), 1e-30) / 127
        return integers @ np.rint(weight / scales) * scales * largest / 127

    table = done["table"].integers * done["table"].scales[:, None]
    weights = arrays | {"table": table}
    ids = np.array([0, 5, 69, 7])
    (found,) = session.run(None, {"ids": ids, "flag": np.array(flag)})
    expected = reference(ids, flag, weights["table"], weights["one"], weights["two"], arrays["bias"], product)
    assert np.allclose(found[1], arrays["bias"])  # the row of zeros
    # A step of an activation may round the other way in the last bit of fp32.
    assert np.abs(found - expected).max() < 0.01
    assert np.median(np.abs(found - expected)) < 1e-5


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [16, 32])  # 32 does not divide 48
def test_blocks_are_a_product_with_the_rounded_weights(tmp_path, bits, block):
    session, arrays, made, done = quantised(tmp_path, lambda w: round_to_nearest(w.name, w.matrix(), bits, block))
    assert operations(made).count("MatMulNBits") == 4
    assert operations(made).count("GatherBlockQuantized") == 1
    back = {name: weight.dequantized() for name, weight in done.items()}
    ids = np.array([0, 5, 69, 7])
    (found,) = session.run(None, {"ids": ids, "flag": np.array(True)})
    expected = reference(ids, True, back["table"], back["one"].T, back["two"].T, arrays["bias"], np.matmul)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # the kernel rounds activations to 8 bits


@pytest.mark.parametrize("form", ["rows", "blocks"])
def test_a_tied_table_is_stored_once(tmp_path, form):
    def to_weight(weight):
        return (
            round_rows(weight.name, weight.matrix())
            if form == "rows"
            else round_to_nearest(weight.name, weight.matrix(), 8, 16)
        )

    _, _, made, _ = quantised(tmp_path, to_weight)
    places = [
        v.const_value.offset
        for v in made.graph.initializers.values()
        if isinstance(v.const_value, ir.ExternalTensor) and v.const_value.nbytes == V * K
    ]
    assert len(set(places)) == 1
    assert len(places) == (1 if form == "rows" else 2)  # two shapes of the same bytes


@pytest.mark.parametrize("rows", [1, 8, 40])
def test_the_largest_products_are_summed_exactly(tmp_path, rows):
    """Where two products of 255 and 127 are added in 16 bits, a third of each sum is lost."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="g")
    x = ir.Value(name="x", shape=ir.Shape(["n", 256]), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(x)
    product = ir.node("MatMul", [x, initializer(graph, "weight", np.ones((256, 96), np.float32))])
    graph.append(product)
    product.outputs[0].name, product.outputs[0].shape = "y", ir.Shape(["n", 96])
    graph.outputs.append(product.outputs[0])
    made = ir.Model(graph, ir_version=10)
    weights = find_weights({"m.onnx": made})
    apply({"m.onnx": made}, weights, {weight.name: round_rows(weight.name, weight.matrix()) for weight in weights})
    save_graphs({"m.onnx": made}, tmp_path)
    (found,) = create_session(tmp_path / "m.onnx", 1).run(None, {"x": np.full((rows, 256), 3, np.float32)})
    assert np.allclose(found, 3 * 256, rtol=1e-6)
