"""Quantised bundles of real exports: they run, say what they cost, and are whole or not there at all."""

import hashlib
import json
import math
import shutil

import numpy as np
import pytest

from litseq.bundle import open_bundle
from litseq.cli import main as cli
from litseq.errors import BundleError, DataError, UsageError
from litseq.quantize import QuantizeOptions, quantize_bundle, quantizer
from litseq.quantize.samples import Sampler, read_texts
from litseq.runtime import Generator
from runtime.fixtures import FIXTURES

KINDS = ("exported-decoder-only", "exported-prefix-lm", "exported-encoder-decoder")
PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [20, 21]]


@pytest.fixture(scope="module")
def exported(pytestconfig):
    return pytestconfig.rootpath / "tests" / "fixtures"


def options(to, **values):
    return QuantizeOptions(to, threads=1, **values)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("to", "batch"), [("int8", "large"), ("int8", "small"), ("int4", None)])
def test_every_kind_of_bundle_runs_and_says_what_it_costs(exported, tmp_path, name, to, batch):
    report = quantize_bundle(exported / name, tmp_path / "out", options(to, batch=batch))
    bundle = open_bundle(tmp_path / "out")
    facts = bundle.manifest.quantization
    assert (facts["scheme"], facts["form"]) == (to, "rows" if batch == "large" else "blocks")
    assert facts["report"] == json.loads(json.dumps(report.to_dict()))
    assert bundle.manifest.format_version == 1
    assert 0 < report.kl < (0.001 if to == "int8" else 0.05)
    assert report.greedy_agreement > (0.9 if to == "int8" else 0.6)
    assert report.machine["onnxruntime"]
    card = (bundle.path / "card.md").read_text()
    assert to in card
    assert f"{report.greedy_agreement:.2%}" in card
    before = Generator.from_bundle(exported / name, threads=1).score(PROMPTS, [[7, 8]] * 4)
    after = Generator.from_bundle(bundle.path, threads=1).score(PROMPTS, [[7, 8]] * 4)
    assert [a.score for a in after] == pytest.approx([b.score for b in before], abs=0.1 if to == "int8" else 0.8)
    assert [a.score for a in after] != [b.score for b in before]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("name", KINDS)
def test_with_a_scale_a_row_no_row_depends_on_the_others(exported, tmp_path, name):
    quantize_bundle(exported / name, tmp_path / "out", options("int8"))
    generator = Generator.from_bundle(tmp_path / "out", threads=1)
    some = {"max_new_tokens": 8, "min_new_tokens": 8, "logprobs": True}
    together = generator.generate(PROMPTS, batch_size=4, **some)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = generator.generate([prompt], **some)
        assert alone.token_ids == found.token_ids
        assert alone.logprobs == found.logprobs  # to the bit


@pytest.mark.parametrize(
    "defaults", [{"num_beams": 4}, {"min_new_tokens": 30}, {"top_k": 1, "num_return_sequences": 2}]
)
def test_how_a_bundle_generates_by_default_does_not_matter(exported, tmp_path, defaults):
    shutil.copytree(exported / KINDS[2], tmp_path / "bundle")
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    manifest["generation"] |= defaults
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    found = quantize_bundle(tmp_path / "bundle", tmp_path / "out", options("int8"))
    assert found.kl == quantize_bundle(exported / KINDS[2], tmp_path / "plain", options("int8")).kl
    assert open_bundle(tmp_path / "out").manifest.generation == manifest["generation"]


def test_compensation_beats_the_nearest_step(exported, tmp_path):
    kl = [
        quantize_bundle(exported / KINDS[0], tmp_path / str(way), options("int4", compensate=way, max_loss=math.inf)).kl
        for way in (False, True)
    ]
    assert kl[1] < kl[0]
    assert open_bundle(tmp_path / "True").manifest.quantization["rounding"] == "compensated"


def test_texts_of_the_user(exported, tmp_path):
    texts, pairs = tmp_path / "texts.txt", tmp_path / "pairs.tsv"
    texts.write_text("the quick brown fox\nzwei mal drei\n\nover the lazy dog\n")
    pairs.write_text("the quick\tzwei mal\ndog\tdrei macht\n")
    report = quantize_bundle(exported / KINDS[0], tmp_path / "a", options("int4", calibration=texts, validation=texts))
    assert set(report.metrics) == {"perplexity"}
    assert report.metrics["perplexity"]["quantised"] == pytest.approx(report.metrics["perplexity"]["fp32"], rel=0.2)
    assert "texts.txt" in open_bundle(tmp_path / "a").manifest.quantization["calibrated_on"]
    assert "perplexity" in (tmp_path / "a" / "card.md").read_text()
    pytest.importorskip("sacrebleu")
    report = quantize_bundle(exported / KINDS[2], tmp_path / "b", options("int4", calibration=pairs, validation=pairs))
    assert set(report.metrics) == {"perplexity", "bleu", "chrf"}
    longer = tmp_path / "longer.tsv"
    longer.write_text(pairs.read_text() + "the quick brown fox " * 500 + "\tdrei\n" + "\tohne\n")
    report = quantize_bundle(exported / KINDS[2], tmp_path / "d", options("int8", validation=longer))
    assert set(report.metrics) == {"perplexity", "bleu", "chrf"}  # of those that the model takes
    with pytest.raises(DataError, match="line 1: 1 columns, expected source, tab and target"):
        quantize_bundle(exported / KINDS[2], tmp_path / "c", options("int4", calibration=texts))
    (tmp_path / "empty").write_text("\n")
    said = []
    with pytest.raises(DataError, match="no text in it"):
        quantize_bundle(
            exported / KINDS[0], tmp_path / "c", options("int8", validation=tmp_path / "empty"), say=said.append
        )
    assert said == []  # before the work
    assert not (tmp_path / "c").exists()


def test_every_scheme_is_measured_on_the_same_lines_and_tried_on_others_than_it_is_calibrated_on(
    exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(quantizer, "MEASURED_TOKENS", 6)
    monkeypatch.setattr(quantizer, "CALIBRATION_TOKENS", 40)
    monkeypatch.setattr(quantizer, "TRIAL_TOKENS", 40)
    rng = np.random.default_rng(0)
    file = tmp_path / "texts.txt"
    file.write_text("".join("".join(rng.choice(list("abcdefghij ")) for _ in range(9)) + "\n" for _ in range(40)))
    chosen, real = [], Sampler.rows
    monkeypatch.setattr(Sampler, "rows", lambda *args, **named: chosen.append(real(*args, **named)) or chosen[-1])
    found = [
        quantize_bundle(exported / KINDS[0], tmp_path / to, options(to, validation=file, **calibration))
        for to, calibration in (("int8", {}), ("int4", {"calibration": file}))
    ]
    assert found[0].metrics["perplexity"]["fp32"] == found[1].metrics["perplexity"]["fp32"]
    calibrated, tried = chosen[1], chosen[2]
    assert len(calibrated) > 2 < len(tried)
    assert not {row.tokens for row in calibrated} & {row.tokens for row in tried}


@pytest.mark.parametrize(
    ("to", "values", "word"),
    [
        ("int2", {}, "'int2' is unknown"),
        ("int8", {"batch": "huge"}, "batch is 'huge'"),
        ("int4", {"batch": "large"}, "form for small batches only"),
        ("int4", {"block": 48}, "block is 48"),
        ("int8", {"block": 32}, "no meaning"),
        ("int4", {"head_bits": 2}, "head_bits is 2"),
        ("int4", {"calibration": "/nowhere"}, "/nowhere does not exist"),
        ("int8", {"calibration": __file__}, "calibration has no meaning for int8"),
        ("int4", {"max_loss": "0.01"}, "max_loss is '0.01', expected a number"),
        ("int8", {"validation": "."}, "validation file . is no file"),
    ],
)
def test_what_cannot_be_is_one_line(to, values, word):
    with pytest.raises(UsageError, match=word):
        QuantizeOptions(to, **values)


def test_a_file_may_be_named_by_a_text_and_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "texts.tsv"
    file.write_text("\ufeffeins\tone\r\nzwei\ttwo\n", encoding="utf-8")
    named = QuantizeOptions("int4", calibration=str(file)).calibration
    assert named == file
    assert [(text.source, text.target) for text in read_texts(named, pairs=True)] == [("eins", "one"), ("zwei", "two")]


def test_texts_of_one_token_are_refused(exported, tmp_path):
    shutil.copytree(exported / KINDS[0], tmp_path / "bare")
    manifest = json.loads((tmp_path / "bare" / "manifest.json").read_text())
    manifest["prompt_format"]["prefix_ids"] = []
    (tmp_path / "bare" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "texts").write_text("a\nb\n")
    with pytest.raises(DataError, match="none of 2 texts has two tokens"):
        quantize_bundle(tmp_path / "bare", tmp_path / "out", options("int8", validation=tmp_path / "texts"))


def test_nothing_is_written_where_something_is_wrong(exported, tmp_path, monkeypatch):
    out = tmp_path / "out"
    quantize_bundle(exported / KINDS[0], out, options("int8"))
    with pytest.raises(UsageError, match="exists"):
        quantize_bundle(exported / KINDS[0], out, options("int8"))
    with pytest.raises(BundleError, match="quantised to int8 already; quantise the fp32 bundle"):
        quantize_bundle(out, tmp_path / "twice", options("int4"))
    damaged = tmp_path / "damaged"
    shutil.copytree(exported / KINDS[0], damaged)
    (damaged / "weights.data").write_bytes(b"\0" * 100)
    with pytest.raises(BundleError, match="is damaged"):
        quantize_bundle(damaged, tmp_path / "twice", options("int8"))

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quantizer, "_measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        quantize_bundle(exported / KINDS[0], out, options("int4"), force=True)
    assert open_bundle(out).manifest.quantization["scheme"] == "int8"  # what was there is there still
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "out"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("decoder.onnx", b"no graph", "is no ONNX graph"),
        ("weights.data", bytes(5000), "cannot be loaded by onnxruntime"),
    ],
)
def test_a_file_of_another_content_is_one_line(exported, tmp_path, capsys, name, content, words):
    broken = tmp_path / "broken"
    shutil.copytree(exported / KINDS[0], broken)
    (broken / name).write_bytes(content)
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (broken / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["quantize", str(broken), str(tmp_path / "out"), "--to", "int8"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", FIXTURES)
def test_hand_made_bundles_too(tmp_path, name):
    from runtime.fixtures import fixture_path

    report = quantize_bundle(fixture_path(name), tmp_path / "out", options("int8"))
    assert np.isfinite(report.kl)
    assert Generator.from_bundle(tmp_path / "out", threads=1).generate([[5, 6, 7]], max_new_tokens=4)[0].token_ids


def test_files_with_a_second_name(exported, tmp_path):
    """Given by a tool that saves space, and for a while by another quantisation of the same bundle."""
    shutil.copytree(exported / KINDS[0], tmp_path / "b")
    (data,) = (tmp_path / "b").glob("*.data")
    plain, linked = (
        quantize_bundle(tmp_path / "b", tmp_path / name, options("int4"), say=say)
        for name, say in [
            ("plain", lambda _: None),
            ("linked", lambda _: (tmp_path / "second").exists() or (tmp_path / "second").hardlink_to(data)),
        ]
    )
    assert (linked.kl, data.stat().st_nlink) == (plain.kl, 2)
    (tmp_path / "second").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "linked", "plain"]
