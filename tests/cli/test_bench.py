import json

import pytest

from litseq.bench.limits import Limits
from litseq.cli import main as cli
from runtime.fixtures import fixture_path

SMALL = ["--batch-sizes", "1", "2", "--lengths", "4", "--new-tokens", "2", "--repeats", "1", "--threads", "1"]


@pytest.fixture(autouse=True)
def known_limits(monkeypatch):
    monkeypatch.setattr("litseq.bench.speed.measure_limits", lambda threads: Limits(threads, 1e10, 1e11, 4e11))


@pytest.mark.parametrize("name", ["tiny-decoder-only", "tiny-encoder-decoder"])
def test_table_json_and_plot(capsys, monkeypatch, tmp_path, name):
    monkeypatch.setenv("COLUMNS", "80")
    files = ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.svg")]
    assert cli.main(["bench", str(fixture_path(name)), *SMALL, *files]) == 0
    out = capsys.readouterr().out
    assert "memory 10.0 GB/s" in out
    assert "…" not in out
    assert ("encoder" in out.split("limits")[1]) == (name == "tiny-encoder-decoder")
    assert [p["batch"] for p in json.loads((tmp_path / "b.json").read_text())["points"]] == [1, 2]
    assert (tmp_path / "b.svg").read_text().startswith("<svg")


def test_json_on_standard_output_is_all_there_is(capsys):
    assert cli.main(["bench", str(fixture_path("tiny-decoder-only")), *SMALL, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "decoder-only"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plot", "b.png"], "ends in .svg"),
        (["--json", ".", "--force"], ". is a directory"),
        (["--json", "b.svg", "--plot", "b.svg"], "both name b.svg"),
        (["--json", "missing/b.json"], "missing does not exist"),
        (["--lengths", "0"], "length is [0]"),
        (["--threads", "0"], "threads is 0"),
    ],
)
def test_mistakes_are_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", str(fixture_path("tiny-decoder-only")), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_file_is_replaced_only_by_force(capsys, tmp_path):
    (tmp_path / "b.json").write_text("kept")
    arguments = ["bench", str(fixture_path("tiny-decoder-only")), *SMALL, "--json", str(tmp_path / "b.json")]
    assert cli.main(arguments) == 2
    assert "b.json exists" in capsys.readouterr().err
    assert cli.main([*arguments, "--force"]) == 0
    assert json.loads((tmp_path / "b.json").read_text())["points"]
