"""The demo's directory appears complete or not at all."""

import pytest

from litseq.demo.staging import staged_directory
from litseq.errors import UsageError


def write(directory, text):
    (directory / "results.json").write_text(text)
    (directory / text).mkdir()


def test_appears_at_the_end(tmp_path):
    out = tmp_path / "new" / "out"
    with staged_directory(out, force=False) as directory:
        write(directory, "a")
        assert not out.exists()
    assert sorted(p.name for p in out.iterdir()) == ["a", "results.json"]
    assert [p.name for p in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_leaves_nothing_and_the_old_one(tmp_path, error):
    old = tmp_path / "old"
    with staged_directory(old, force=False) as directory:
        write(directory, "a")
    for out in (old, tmp_path / "made" / "for" / "it"):
        with pytest.raises(error), staged_directory(out, force=True) as directory:
            write(directory, "b")
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (old / "results.json").read_text() == "a"


def test_force_replaces_only_a_demo(tmp_path):
    out = tmp_path / "out"
    with staged_directory(out, force=False) as directory:
        write(directory, "a")
    with pytest.raises(UsageError, match="--force"), staged_directory(out, force=False):
        pass
    with staged_directory(out, force=True) as directory:
        write(directory, "b")
    assert sorted(p.name for p in out.iterdir()) == ["b", "results.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="never replaced"), staged_directory(tmp_path / "other", force=True):
        pass


def test_an_empty_directory_is_filled(tmp_path):
    with staged_directory(tmp_path, force=False) as directory:
        write(directory, "a")
    assert (tmp_path / "a").is_dir()


def test_without_a_target_nothing_stays():
    with staged_directory(None, force=False) as directory:
        write(directory, "a")
    assert not directory.exists()
