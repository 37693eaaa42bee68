"""`export_bundle(quantize=...)`: verified in fp32 first, then quantised where it lies."""

import math

import pytest

from export.small import small_module, small_tokenizer, small_translator
from litseq.bundle import open_bundle
from litseq.errors import BundleError, DataError
from litseq.export import export_bundle, exporter
from litseq.quantize import QuantizeOptions
from litseq.runtime import Generator


@pytest.mark.parametrize("to", ["int8", "int4"])
@pytest.mark.parametrize("make", [small_module, small_translator])
def test_export_quantised(tmp_path, make, to):
    module = make(vocab_size=600, embed_dim=128)
    report = export_bundle(
        module, small_tokenizer(), tmp_path / "b", quantize=QuantizeOptions(to, threads=1, max_loss=math.inf)
    )
    assert report.passed
    assert 0 < report.quantization.kl < 2  # random and rough: errors grow from layer to layer
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.parity["passed"] is True
    assert manifest.quantization["scheme"] == to
    weights = 4 * sum(p.numel() for p in module.parameters())
    stored = manifest.files["weights.data"].bytes
    assert stored < weights / (3.4 if to == "int8" else 5)  # pages of small weights among them
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]
    assert Generator.from_bundle(tmp_path / "b", threads=1).generate([[5, 6, 7]], max_new_tokens=3)[0].token_ids


def test_a_word_is_enough(tmp_path):
    export_bundle(small_module(), small_tokenizer(), tmp_path / "b", quantize="int8")
    assert open_bundle(tmp_path / "b").manifest.quantization["batch_invariant"] is True


def test_a_module_without_anything_to_quantise_is_named_as_it_was_to_be(tmp_path):
    tiny = small_module(embed_dim=8, num_heads=1, num_layers=1, ffn_dim=8)
    with pytest.raises(BundleError, match=r"/b multiplies with no constant matrix of 1024 elements or more"):
        export_bundle(tiny, small_tokenizer(), tmp_path / "b", quantize="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["calibration", "validation"])
def test_texts_are_read_before_the_work(tmp_path, monkeypatch, name):
    (tmp_path / "texts.tsv").write_text("no pair\n")
    monkeypatch.setattr(exporter, "trace", lambda spec: pytest.fail("traced all the same"))
    options = QuantizeOptions("int4", **{name: tmp_path / "texts.tsv"})
    with pytest.raises(DataError, match=r"line 1: 1 columns, expected source, tab and target"):
        export_bundle(small_translator(), small_tokenizer(), tmp_path / "b", quantize=options)
