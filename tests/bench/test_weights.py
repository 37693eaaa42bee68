import numpy as np
import pytest

from bench.graphs import count_with_onnx
from litseq.bench.weights import cache_bytes, cross_bytes, decoder_weights, read_weights
from litseq.bundle import open_bundle
from litseq.errors import BundleError
from runtime.fixtures import FIXTURES, fixture_path


@pytest.mark.parametrize("name", FIXTURES)
def test_weights_are_those_that_onnx_counts(name):
    pytest.importorskip("onnx")
    bundle = open_bundle(fixture_path(name))
    found = decoder_weights(bundle)
    size, multiplied = count_with_onnx(bundle.file(bundle.manifest.decoder.file))
    assert (found.bytes, found.multiplied + found.head) == (size, multiplied)
    assert not found.integer


@pytest.mark.parametrize("to", [None, "int8", "int4"])
def test_only_the_last_token_of_a_prompt_meets_the_output_projection(pytestconfig, tmp_path, to):
    path = pytestconfig.rootpath / "tests" / "fixtures" / "exported-decoder-only"
    if to is not None:
        pytest.importorskip("onnx_ir")
        from litseq.quantize import QuantizeOptions, quantize_bundle

        quantize_bundle(path, tmp_path / "out", QuantizeOptions(to, threads=1))
        path = tmp_path / "out"
    bundle = open_bundle(path)
    hparams = bundle.manifest.model.hparams
    assert hparams["tie_embeddings"]
    found = decoder_weights(bundle)
    assert found.head == bundle.manifest.model.vocab_size * hparams["embed_dim"]
    assert found.multiplied > 0
    assert found.integer == (to is not None)


def test_stacks_of_matrices_and_convolutions_are_multiplied_with(tmp_path):
    onnx = pytest.importorskip("onnx")
    experts = onnx.numpy_helper.from_array(np.zeros((3, 16, 32), np.float32), "experts")
    kernel = onnx.numpy_helper.from_array(np.zeros((32, 16, 1), np.float32), "kernel")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "experts"], ["y"]),
        onnx.helper.make_node("Conv", ["y", "kernel"], ["z"]),
    ]
    values = [onnx.helper.make_tensor_value_info(n, 1, None) for n in ("x", "z")]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [experts, kernel])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    assert read_weights(tmp_path / "g.onnx").multiplied == 3 * 16 * 32 + 32 * 16


def test_packed_weights_count_as_the_matrix_they_stand_for(tmp_path):
    onnx = pytest.importorskip("onnx")
    packed = onnx.numpy_helper.from_array(np.zeros((8, 2, 16), np.uint8), "packed")
    scales = onnx.numpy_helper.from_array(np.ones((8, 2), np.float32), "scales")
    table = onnx.numpy_helper.from_array(np.ones((50, 64), np.float32), "table")
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["x"]),
        onnx.helper.make_node(
            "MatMulNBits", ["x", "packed", "scales"], ["y"], domain="com.microsoft", K=64, N=8, bits=4, block_size=32
        ),
    ]
    values = [onnx.helper.make_tensor_value_info(n, t, None) for n, t in (("ids", 7), ("y", 1))]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [packed, scales, table])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    found = read_weights(tmp_path / "g.onnx")
    assert (found.bytes, found.multiplied, found.integer) == (8 * 2 * 16 + 8 * 2 * 4, 64 * 8, True)


def test_bytes_of_the_caches():
    bundle = open_bundle(fixture_path("tiny-encoder-decoder"))
    cache = bundle.manifest.decoder.cache
    heads, width = (dim for dim in cache[0].dims if isinstance(dim, int))
    assert cache_bytes(bundle) == len(cache) * heads * width * 4
    assert cross_bytes(bundle) > 0
    assert cross_bytes(open_bundle(fixture_path("tiny-decoder-only"))) == 0


def test_a_file_that_is_no_graph(tmp_path):
    for content in (b"", b"not a graph", b"\x3a\xff\xff"):
        (tmp_path / "g.onnx").write_bytes(content)
        with pytest.raises(BundleError, match="cannot be read as an ONNX graph"):
            read_weights(tmp_path / "g.onnx")
