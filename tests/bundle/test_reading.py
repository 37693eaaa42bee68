import hashlib
import json
import os
import time

import pytest

from bundle.bundle_files import write_sample
from litseq.bundle import FileEntry, open_bundle, reading
from litseq.bundle.reading import file_problem
from litseq.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    write_sample(tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(path, *words, **options):
    with pytest.raises(BundleError) as caught:
        open_bundle(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def edit(bundle, **changes):
    file = bundle / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_good_bundle_opens(bundle):
    opened = open_bundle(str(bundle))
    assert opened.file("decoder.onnx") == bundle / "decoder.onnx"
    assert sorted(opened.manifest.files) == ["decoder.onnx", "encoder.onnx", "tokenizer.json", "weights.data"]
    with pytest.raises(BundleError, match="lists no file 'x'"):
        opened.file("x")


def test_missing_paths(tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is a file; a bundle is a directory")
    refused(tmp_path, "is no bundle: it has no manifest.json")


@pytest.mark.parametrize("text", ["", "{", "\0\1", "[" * 100_000, '{"format": NaN'])
def test_a_manifest_that_is_no_json(bundle, text):
    (bundle / "manifest.json").write_text(text)
    refused(bundle, "manifest.json")


def test_a_manifest_that_is_no_utf8(bundle):
    (bundle / "manifest.json").write_bytes(b'{"format": "\xff"}')
    refused(bundle, "no valid JSON")


def test_a_manifest_of_absurd_size(bundle):
    os.truncate(bundle / "manifest.json", 17 * 2**20)
    refused(bundle, "expected at most")


def test_an_unknown_version(bundle):
    edit(bundle, format_version=99)
    refused(bundle, "format version 99, this litseq reads versions 1 to 1; upgrade litseq")


@pytest.mark.parametrize("at", [0, 3, -1])
def test_a_flipped_byte(bundle, at):
    content = bytearray((bundle / "weights.data").read_bytes())
    content[at] ^= 1
    (bundle / "weights.data").write_bytes(content)
    refused(bundle, "is damaged: weights.data has SHA-256")
    assert open_bundle(bundle, verify=False)


def test_a_file_cut_short_is_noticed_without_hashes(bundle):
    os.truncate(bundle / "weights.data", 3)
    refused(bundle, "weights.data has 3 bytes, expected 19", verify=False)


def test_large_weights_are_hashed_beside_the_caller(bundle, monkeypatch):
    monkeypatch.setattr(reading, "_BACKGROUND_BYTES", 0)
    opened = open_bundle(bundle, background=True)
    assert len(opened._checks) == 1
    opened.ensure_sound()
    content = bytearray((bundle / "weights.data").read_bytes())
    content[3] ^= 1
    (bundle / "weights.data").write_bytes(content)
    damaged = open_bundle(bundle, background=True)
    for _ in range(2):
        with pytest.raises(BundleError, match=r"is damaged: weights.data has SHA-256"):
            damaged.ensure_sound()
    open_bundle(bundle, background=True, verify=False).ensure_sound()
    (bundle / "decoder.onnx").write_bytes(bytes((bundle / "decoder.onnx").stat().st_size))
    refused(bundle, "decoder.onnx has SHA-256", background=True)


def test_all_damage_is_named_at_once(bundle):
    (bundle / "weights.data").unlink()
    (bundle / "decoder.onnx").write_text("x")
    refused(bundle, "decoder.onnx has 1 bytes", "weights.data is missing")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file"])
def test_names_cannot_lead_out_of_the_bundle(bundle, name):
    raw = json.loads((bundle / "manifest.json").read_text())
    edit(bundle, files=raw["files"] | {name: {"bytes": 1, "sha256": "0" * 64}})
    refused(bundle, f"files[{name!r}] is no plain file name")


def test_links_cannot_lead_out_of_the_bundle(bundle, tmp_path):
    (bundle / "weights.data").rename(tmp_path / "outside")
    (bundle / "weights.data").symlink_to(tmp_path / "outside")
    refused(bundle, "weights.data is a link that leaves the bundle")
    (bundle / "weights.data").unlink()
    (tmp_path / "outside").rename(bundle / "other.data")
    (bundle / "weights.data").symlink_to("other.data")
    assert open_bundle(bundle)


def test_the_manifest_itself_may_not_be_elsewhere(bundle, tmp_path):
    (bundle / "manifest.json").rename(tmp_path / "outside.json")
    (bundle / "manifest.json").symlink_to(tmp_path / "outside.json")
    refused(bundle, "is a link that leaves the bundle")


def test_what_is_no_file_is_not_read(bundle):
    (bundle / "weights.data").unlink()
    os.mkfifo(bundle / "weights.data")
    refused(bundle, "weights.data is no regular file")
    (bundle / "weights.data").unlink()
    (bundle / "weights.data").mkdir()
    refused(bundle, "weights.data is no regular file")


def test_the_bundle_may_itself_be_reached_by_a_link(bundle, tmp_path):
    (tmp_path / "link").symlink_to(bundle)
    assert open_bundle(tmp_path / "link")


def test_hashing_is_quick(tmp_path):
    file = tmp_path / "big"
    with file.open("wb") as stream:
        stream.truncate(64 * 2**20)
    entry = FileEntry(64 * 2**20, hashlib.sha256(bytes(64 * 2**20)).hexdigest())
    start = time.perf_counter()
    assert file_problem(tmp_path, "big", entry) is None
    assert time.perf_counter() - start < 1.5, "64 MB must not take long: a 500 MB bundle is to be ready in seconds"
