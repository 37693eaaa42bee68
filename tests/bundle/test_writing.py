import os
import stat

import pytest

from bundle.bundle_files import sample_manifest, write_sample
from litseq.bundle import create_bundle, open_bundle
from litseq.errors import BundleError, UsageError


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_sizes_and_hashes_are_measured(tmp_path):
    manifest = write_sample(tmp_path / "new" / "deep" / "bundle")
    assert manifest.files["decoder.onnx"].bytes == 19
    assert open_bundle(tmp_path / "new/deep/bundle").manifest == manifest
    assert names(tmp_path / "new" / "deep") == ["bundle"]


def test_the_directory_has_the_usual_rights(tmp_path):
    write_sample(tmp_path / "bundle")
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_nothing_is_left_when_the_work_fails(tmp_path, error):
    with pytest.raises(type(error)), create_bundle(tmp_path / "new" / "bundle") as draft:
        (draft.path / "decoder.onnx").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_draft_that_was_never_finished_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="never finished"), create_bundle(tmp_path / "bundle") as draft:
        (draft.path / "decoder.onnx").write_text("x")
    assert names(tmp_path) == []


def test_a_manifest_that_misses_a_file_is_refused(tmp_path):
    with (
        pytest.raises(BundleError, match=r"files does not list 'decoder.onnx'"),
        create_bundle(tmp_path / "b") as draft,
    ):
        (draft.path / "tokenizer.json").write_text("{}")
        draft.finish(sample_manifest())
    assert names(tmp_path) == []


def test_an_existing_bundle_is_refused_before_the_work_and_replaced_by_force(tmp_path):
    write_sample(tmp_path / "bundle")
    with pytest.raises(UsageError, match="exists; choose another name, or replace it with --force"):
        write_sample(tmp_path / "bundle", content=b"new")
    write_sample(tmp_path / "bundle", content=b"new", force=True)
    assert (tmp_path / "bundle" / "decoder.onnx").read_bytes().startswith(b"new")
    assert open_bundle(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]


def test_the_old_bundle_survives_a_failed_replacement(tmp_path):
    write_sample(tmp_path / "bundle")
    with pytest.raises(KeyboardInterrupt), create_bundle(tmp_path / "bundle", force=True) as draft:
        (draft.path / "decoder.onnx").write_text("half")
        raise KeyboardInterrupt
    assert open_bundle(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "bundle").mkdir()
    write_sample(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle")
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_touched(tmp_path, force):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"format": "other"}')
    for name, words in (("home", "is no bundle"), ("file", "is no directory"), ("other", "is no bundle")):
        with pytest.raises(UsageError, match=words):
            write_sample(tmp_path / name, force=force)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years"
    assert names(tmp_path) == ["file", "home", "other"]


def test_files_that_are_no_part_of_the_bundle_are_never_deleted(tmp_path):
    write_sample(tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"also holds notes.txt, which is no part of the bundle"):
        write_sample(tmp_path / "bundle", force=True)
    assert (tmp_path / "bundle" / "notes.txt").read_text() == "mine"


def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(UsageError, match="is no bundle"), create_bundle(tmp_path / "bundle") as draft:
        for name in ("decoder.onnx", "encoder.onnx", "tokenizer.json"):
            (draft.path / name).write_text("x")
        draft.finish(sample_manifest())
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "thesis.txt").write_text("years")
    assert names(tmp_path) == ["bundle"]


def test_a_link_to_a_bundle_is_followed(tmp_path):
    write_sample(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write_sample(tmp_path / "link", content=b"new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "decoder.onnx").read_bytes().startswith(b"new")


def test_subdirectories_and_links_do_not_go_into_a_bundle(tmp_path):
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/hostname")):
        with pytest.raises(BundleError, match="x is no regular file"), create_bundle(tmp_path / "bundle") as draft:
            make(draft.path / "x")
            draft.finish(sample_manifest())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere, so that nothing is refused")
def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="cannot be written"):
        write_sample(tmp_path / "locked" / "bundle")


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be made"):
        write_sample(tmp_path / "file" / "bundle")
