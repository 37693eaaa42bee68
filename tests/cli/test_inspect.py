import json
import shutil

import pytest

from litseq.cli import main as cli
from litseq.cli.inspect import flatten
from runtime.fixtures import FIXTURES, fixture_path


@pytest.mark.parametrize("name", FIXTURES)
def test_it_says_what_the_bundle_is_and_what_was_checked(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["inspect", str(fixture_path(name))]) == 0
    out = capsys.readouterr().out
    for words in (name.removeprefix("tiny-"), "300 tokens", "decoder.onnx", "SHA-256 of every file", "max_new_tokens"):
        assert words in out


def test_long_names_are_not_cut_off(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "60")
    copy = tmp_path / "copy"
    shutil.copytree(fixture_path("tiny-decoder-only"), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["model"]["class_path"] = "a_package_of_mine." * 8 + "Model"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["inspect", str(copy)]) == 0
    together = capsys.readouterr().out.translate(dict.fromkeys(map(ord, " \n│")))
    assert together.count("a_package_of_mine.") == 8


def test_as_json(capsys):
    path = fixture_path("tiny-decoder-only")
    assert cli.main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "SHA-256 of every file" in found.pop("checked")
    assert found == json.loads((path / "manifest.json").read_text())


def test_a_damaged_bundle_is_one_line_and_exit_code_2(capsys, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(fixture_path("tiny-decoder-only"), copy)
    (copy / "decoder.onnx").unlink()
    assert cli.main(["inspect", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoder.onnx is missing" in err
    assert err.count("\n") == 1


def test_what_a_bundle_says_cannot_steer_the_terminal(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # a short title
    copy = tmp_path / "run[bold]"
    shutil.copytree(fixture_path("tiny-decoder-only"), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["provenance"] = {"note": "\x1b[31mred", "markup": "[bold]x[/bold] [/oops]", "broken": "\ud800"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["inspect", copy.name]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "run[bold]" in out
    assert "[bold]x[/bold] [/oops]" in out
    assert cli.main(["inspect", str(copy), "--json"]) == 0
    assert capsys.readouterr().out.isascii()  # a terminal or a pipe of any encoding takes it


def test_flatten():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": "text", "f": {}, "long": "x" * 500}
    found = dict(flatten(nested))
    assert found["a.b"] == "1"
    assert found["a.c.d"] == "[1, 2]"
    assert found["e"] == "text"
    assert "f" not in found
    assert len(found["long"]) == 160
