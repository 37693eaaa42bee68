"""What depends on weights alone is a weight."""

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.small import small_module, small_tokenizer
from export.test_passes import graph_of, named, run, value, weight
from litseq.export import export_bundle
from litseq.export.folding import fold_constants
from litseq.models import DecoderOnly
from litseq.nn import DecoderLayer, TransformerDecoder
from litseq.quantize import QuantizeOptions


class NormedFeedForward(nn.Module):
    """weight norm, and a low-rank adapter added to the weight."""

    def __init__(self, width):
        super().__init__()
        self.up = nn.utils.parametrizations.weight_norm(nn.Linear(width, 4 * width))
        self.down = nn.Linear(4 * width, width)
        self.left, self.right = nn.Parameter(torch.randn(width, 2)), nn.Parameter(torch.randn(2, 4 * width))

    def forward(self, x):
        return F.linear(F.gelu(self.up(x)), self.down.weight + 0.01 * self.left @ self.right, self.down.bias)


class NormedLayer(DecoderLayer):
    def build_feed_forward(self, config):
        return NormedFeedForward(config.embed_dim)


class CosineDecoder(TransformerDecoder):
    def build_layer(self, config, index):
        return NormedLayer(config, self.has_cross_attention)

    def logits(self, hidden):
        return 5 * F.linear(F.normalize(hidden, dim=-1), F.normalize(self.embedding.weight, dim=-1))


class CosineModel(DecoderOnly):
    def build_decoder(self, config):
        return CosineDecoder(config)


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_weights_that_a_module_computes_are_quantised(tmp_path, to):
    module = small_module(CosineModel, vocab_size=2000, embed_dim=128, num_layers=1)
    export_bundle(module, small_tokenizer(), tmp_path / "b")
    report = export_bundle(
        module, small_tokenizer(), tmp_path / "q", quantize=QuantizeOptions(to, threads=1, max_loss=math.inf)
    )
    before, after = (ir.load(tmp_path / name / "decoder.onnx").graph for name in ("b", "q"))
    inputs = {i.name for i in before.inputs}
    needed = {v for node in before for v in node.outputs if node.op_type in ("MatMul", "Gemm")}
    assert needed and all(node.inputs[1].name in before.initializers for v in needed if (node := v.producer()))
    assert not [node for node in before if not depends_on(node, inputs)]
    large = [v.name for v in after.initializers.values() if v.dtype == ir.DataType.FLOAT and v.const_value.size > 8000]
    assert large == []
    assert report.quantization.bytes_after < report.quantization.bytes_before / 3


def depends_on(node, inputs):
    if node.op_type in ("If", "Constant"):
        return True
    seen, waiting = set(), [node]
    while waiting:
        for one in waiting.pop().inputs:
            if one is not None and one not in seen:
                seen.add(one)
                waiting += [one.producer()] if one.producer() is not None else []
    return bool(inputs & {one.name for one in seen})


def test_what_would_grow_stays_computed(tmp_path):
    row, x = weight("row", np.arange(400, dtype=np.float32)[None]), value("x", 64, 400)
    sizes = weight("sizes", np.array([64, 400], np.int64))
    wide = named(ir.node("Expand", [row, sizes]), "wide")
    total = named(ir.node("Add", [x, wide.outputs[0]]), "y")
    graph = graph_of([x], [total.outputs[0]], [wide, total], row, sizes)
    fold_constants(graph)
    assert [node.op_type for node in graph] == ["Expand", "Add"]
    given = np.ones((64, 400), np.float32)
    np.testing.assert_array_equal(run(graph, tmp_path, x=given)[0], given + np.arange(400))


def test_chance_and_what_is_asked_for_stay(tmp_path):
    w, x = weight("w", np.full((2, 3), 0.5, np.float32)), value("x", 2, 3)
    coin = named(ir.node("Bernoulli", [w]), "coin")
    twice = named(ir.node("Add", [w, w]), "twice")
    total = named(ir.node("Add", [x, coin.outputs[0]]), "y")
    graph = graph_of([x], [total.outputs[0], twice.outputs[0]], [coin, twice, total], w)
    fold_constants(graph)
    assert [node.op_type for node in graph] == ["Bernoulli", "Add", "Add"]
