import json
from dataclasses import replace

import pytest

from bundle.bundle_files import sample_manifest
from litseq.bundle import FORMAT_VERSION, CacheTensor, FileEntry, Manifest
from litseq.bundle.manifest import is_plain_name
from litseq.errors import BundleError

FILES = {name: FileEntry(3, "ab" * 32) for name in ("decoder.onnx", "encoder.onnx", "tokenizer.json")}


def as_json(**changes):
    return json.loads(replace(sample_manifest(), files=FILES, **changes).to_json())


def refused(raw, *words):
    with pytest.raises(BundleError) as caught:
        Manifest.from_dict(raw)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("encoder", [True, False])
def test_a_manifest_survives_json(encoder):
    manifest = replace(sample_manifest(encoder), files=FILES)
    assert Manifest.from_dict(json.loads(manifest.to_json())) == manifest


def test_fields_it_does_not_know_are_ignored():
    raw = as_json()
    raw["later"] = {"x": 1}
    raw["decoder"]["later"] = 2
    assert Manifest.from_dict(raw) == replace(sample_manifest(), files=FILES)


@pytest.mark.parametrize("raw", [None, [], "text", {}, {"format": "other"}, {"format": 3}])
def test_a_foreign_manifest_is_refused(raw):
    refused(raw, "does not describe a litseq bundle", "'litseq-bundle'")


def test_a_newer_version_is_refused_before_anything_else():
    refused({"format": "litseq-bundle", "format_version": 2}, "format version 2", "versions 1 to 1", "upgrade litseq")
    assert FORMAT_VERSION == 1


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_a_version_that_is_none_is_refused(version):
    refused(as_json() | {"format_version": version}, "format_version")


def test_every_problem_is_named_at_once():
    raw = as_json()
    raw["architecture"] = "mamba"
    raw["model"]["vocab_size"] = 0
    raw["decoder"]["cache"][0]["dims"] = ["batch", -1, "heads", 16]
    del raw["tokenizer"]
    refused(
        raw,
        "architecture is 'mamba', expected one of encoder-decoder, decoder-only",
        "model.vocab_size is 0",
        "decoder.cache[0].dims holds '-1'",
        "'heads'",
        "tokenizer is missing",
        "tokenizer.file is missing",
    )


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        (("model", "max_seq_len"), True, "model.max_seq_len is true or false"),
        (("model", "max_seq_len"), 2**40, "model.max_seq_len is 1099511627776"),
        (("model", "class_path"), "", "model.class_path is empty"),
        (("decoder", "inputs"), [1], "decoder.inputs is a list"),
        (("decoder", "inputs", "input_ids"), 3, "decoder.inputs holds no text for 'input_ids'"),
        (("decoder", "cache"), {}, "decoder.cache is an object"),
        (("decoder", "cache"), [1], "decoder.cache[0] is a number"),
        (("decoder", "cache"), [{}] * 5000, "holds 5000 entries"),
        (("decoder", "cache", 0, "dtype"), "complex", "dtype is 'complex'"),
        (("files",), [], "files is a list"),
        (("files", "decoder.onnx"), 3, "files['decoder.onnx'] is a number"),
        (("files", "decoder.onnx", "sha256"), "xyz", "is not 64 hexadecimal digits"),
        (("files", "decoder.onnx", "bytes"), -1, "bytes is -1"),
        (("tokenizer", "golden", 1, "ids"), ["a"], "ids holds something that is no integer"),
        (("prompt_pass",), "twice", "prompt_pass is 'twice'"),
        (("generation",), 5, "generation is a number"),
    ],
)
def test_wrong_types_are_named(path, value, word):
    raw = as_json()
    parent = raw
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    refused(raw, word)


def test_contradictions_are_named():
    manifest = replace(sample_manifest(), files=FILES)
    decoder = manifest.decoder
    cases = {
        "decoder.inputs has no 'logit_rows'": replace(
            decoder, inputs={k: v for k, v in decoder.inputs.items() if k != "logit_rows"}
        ),
        "unknown role 'mask'": replace(decoder, inputs=decoder.inputs | {"mask": "mask"}),
        "only some of top_k": replace(decoder, inputs=decoder.inputs | {"top_k": "top_k"}),
        "decoder.outputs has no 'logits'": replace(decoder, outputs={}),
        "decoder.cache has no entry that grows": replace(decoder, cache=(CacheTensor("a", "b", ("batch", 4)),)),
        "must start with 'batch'": replace(decoder, cache=(CacheTensor("a", "b", ("capacity", 4)),)),
        "names a growing dimension twice": replace(
            decoder, cache=(CacheTensor("a", "b", ("batch", "capacity", "capacity")),)
        ),
        "decoder input 'input_ids' is named twice": replace(
            decoder, cache=(CacheTensor("input_ids", "b", ("batch", "capacity")),)
        ),
        "decoder output 'logits' is named twice": replace(
            decoder, cache=(CacheTensor("a", "logits", ("batch", "capacity")),)
        ),
        "decoder.cross is empty": replace(decoder, cross=()),
        "no 'source_lengths'": replace(
            decoder, inputs={k: v for k, v in decoder.inputs.items() if k != "source_lengths"}
        ),
    }
    assert manifest.problems() == []
    for words, changed in cases.items():
        assert words in "; ".join(replace(manifest, decoder=changed).problems())
    others = {
        "encoder is missing although architecture is encoder-decoder": replace(manifest, encoder=None),
        "encoder is given although architecture is decoder-only": replace(manifest, architecture="decoder-only"),
        "encoder.inputs has an unknown role 'mask'": replace(
            manifest, encoder=replace(manifest.encoder, inputs={"input_ids": "i", "lengths": "l", "mask": "m"})
        ),
        "no 'prefix_lengths' although prompt_pass": replace(manifest, prompt_pass="whole"),
        "files does not list 'tokenizer.json'": replace(manifest, files={}),
        "no plain file name": replace(manifest, files=FILES | {"../../etc/passwd": FileEntry(1, "0" * 64)}),
        "model.max_seq_len is 900, and the module was built for 40": replace(
            manifest, model=replace(manifest.model, max_seq_len=900, hparams={"max_seq_len": 40})
        ),
        "lists manifest.json itself": replace(manifest, files=FILES | {"manifest.json": FileEntry(1, "0" * 64)}),
    }
    for words, changed in others.items():
        assert words in "; ".join(changed.problems())


@pytest.mark.parametrize("name", ["decoder.onnx", "weights.data", "card.md", "a b-c_1.txt", "größe.txt"])
def test_plain_names(name):
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/a", "a\\b", "C:a", ".hidden", "a\0b", "a\nb", "x" * 256, "a*"]
)
def test_names_that_could_lead_elsewhere(name):
    assert not is_plain_name(name)
