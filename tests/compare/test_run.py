"""The whole comparison, small: processes, failures, resuming, the report."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from compare.small import small, write_pairs
from litseq.cli.main import main
from litseq.compare.config import Arm, Budget
from litseq.compare.planning import lay_out, make_plans, run_directory
from litseq.compare.run import _same_items, run_comparison
from litseq.errors import DataError, UsageError
from litseq.runtime import Generator


def run(comparison, **options):
    stream = io.StringIO()
    results = run_comparison(comparison, console=Console(file=stream, width=200), **options)
    return results, stream.getvalue()


def test_a_failed_arm_is_kept_apart_and_a_second_call_does_what_is_left(tmp_path, monkeypatch):
    write_pairs(tmp_path)
    monkeypatch.chdir(tmp_path)  # `out` is most often relative
    # Every pair is left out of this arm's data, which is known only when it begins to train.
    broken = Arm("litseq.models.DecoderOnly", {"num_layers": 2}, {"max_source_length": 1})
    comparison = small(tmp_path, out="out", jobs=2)
    comparison.arms["broken"] = broken
    results, log = run(comparison)
    out = tmp_path / "out"
    assert [(f["arm"], f["seed"]) for f in results["failed"]] == [("broken", 1)]
    assert "max_source_length=1" in results["failed"][0]["reason"]
    assert "broken, seed 1: failed" in log
    assert set(results["tests"]["test"]["scores"]["bleu"]) == {"encoder-decoder", "causal"}
    assert any("broken, seed 1 failed" in caveat for caveat in results["recommendation"]["caveats"])
    assert json.loads((out / "results.json").read_text())["failed"] == results["failed"]
    assert "max_source_length=1" in (out / "report.html").read_text()

    sizes = [results["arms"][name]["parameters"] for name in ("encoder-decoder", "causal")]
    assert max(sizes) / min(sizes) < 1.02
    for name in ("encoder-decoder", "causal"):
        training = results["arms"][name]["seeds"]["1"]["training"]
        # What was exported can be exported again, as int8 say; the other checkpoints are gone.
        kept = list((run_directory(out, name, 1) / "checkpoints").glob("*.ckpt"))
        assert [path.resolve() for path in kept] == [Path(training["checkpoint"]).resolve()]
        assert 4000 <= training["tokens"] < 4000 + 256  # to one batch
        assert training["curve"][-1]["step"] == training["steps"]
        assert training["flops"] > 6 * training["tokens"] * 1000
        generator = Generator.from_bundle(run_directory(out, name, 1) / "bundle", threads=1)
        assert generator.manifest.model.parameters == results["arms"][name]["parameters"]
        assert results["arms"][name]["speed"]["grid"][0]["tokens_per_second"] > 0
        assert results["arms"][name]["speed"]["memory"]["peak_bytes"] > 2**20
    answers = json.loads((run_directory(out, "causal", 1) / "outputs.json").read_text())["test"]
    assert len(answers["outputs"]) == 24

    # What is finished is left alone; the arm that failed is mended, tried again, and now in the report.
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/seed-1/result.json")}
    comparison.arms["broken"] = Arm("litseq.models.DecoderOnly", {"num_layers": 2})
    with pytest.raises(UsageError, match="another configuration"):
        run(comparison)
    del comparison.arms["broken"]
    again, log = run(comparison)
    assert "2 of 2 runs are finished already" in log
    assert not again["failed"]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert again["tests"]["test"]["scores"] == results["tests"]["test"]["scores"]


def test_a_killed_run_goes_on_where_it_was(tmp_path, start):
    write_pairs(tmp_path)
    comparison = small(tmp_path, budget=Budget(tokens=30_000), validations=30)
    del comparison.arms["causal"]
    out = tmp_path / "out"
    out.mkdir()
    _, (plan,) = make_plans(comparison, out)
    lay_out([plan], out)
    directory = run_directory(out, "encoder-decoder", 1)
    command = [sys.executable, "-m", "litseq.compare.worker", str(directory)]
    process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = directory / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (directory / "result.json").exists()
    before = json.loads((directory / "curve.json").read_text())
    subprocess.run(command, check=True, capture_output=True)
    training = json.loads((directory / "result.json").read_text())["training"]
    # The points before the kill were not made again, and what was counted is what one training reads.
    assert training["curve"][0] == before[0]
    assert 30_000 <= training["tokens"] < 30_000 + 256
    steps = [point["step"] for point in training["curve"]]
    assert steps == sorted(set(steps))


def test_out_of_memory_is_a_reason(tmp_path):
    from litseq.compare.processes import run_process

    (tmp_path / "dies.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    os.environ["PYTHONPATH"], old = (
        os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        os.environ.get("PYTHONPATH"),
    )
    try:
        assert "ran out of memory" in run_process("dies", [], tmp_path, lambda *_: None)
    finally:
        os.environ["PYTHONPATH"] = old or ""


def test_compute_is_matched_by_tokens(tmp_path):
    write_pairs(tmp_path)
    comparison = small(tmp_path, match="compute", budget=Budget(tokens=20_000))
    (tmp_path / "out").mkdir()
    arms, plans = make_plans(comparison, tmp_path / "out")
    assert arms[0].tokens == 20_000
    assert arms[1].tokens != 20_000
    assert [arm.size.changes for arm in arms] == ["", ""]
    assert [plan["budget"]["tokens"] for plan in plans] == [arm.tokens for arm in arms]


def test_a_directory_with_something_else_is_not_touched(tmp_path):
    write_pairs(tmp_path)
    with pytest.raises(UsageError, match="something else"):
        run(small(tmp_path, out=str(tmp_path)))


def test_two_at_once_do_not_write_into_one_directory(tmp_path, start):
    write_pairs(tmp_path)
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    (out / "comparison.json").write_text("{}")
    hold = f"import fcntl, os, time; fcntl.flock(os.open({str(out)!r}, os.O_RDONLY), fcntl.LOCK_EX); print(flush=True)"
    other = start([sys.executable, "-c", f"{hold}; time.sleep(60)"], stdout=subprocess.PIPE)
    other.stdout.readline()
    comparison = small(tmp_path, tests={"test": "nowhere.tsv"})
    with pytest.raises(UsageError, match="out is being written by another process; wait for it, or choose another out"):
        run(comparison, force=True)
    assert (out / "runs").is_dir()
    other.kill()
    other.wait()
    with pytest.raises(DataError, match="nowhere"):  # a lock does not outlive who had it
        run(comparison)


def test_all_arms_are_timed_on_the_same_items():
    short = {str(item): [item] for item in range(0, 90, 3)}
    long = {str(item): [item, item] for item in range(0, 60, 3) if item % 2}
    found = _same_items({"short": short, "long": long}, 5)
    assert len(found["short"]) == 5
    assert [2 * prompt for prompt in found["short"]] == found["long"]
    assert _same_items({"a": {"0": [1]}, "b": {"5": [2], "6": [3]}}, 5) == {"a": [[1]], "b": [[2]]}


def test_an_interrupt_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("litseq.cli.compare.run_comparison", interrupted)
    (tmp_path / "compare.yaml").write_text(
        "arms: {a: {class_path: litseq.models.DecoderOnly}}\ndata: {init_args: {}}\n"
    )
    assert main(["compare", "-c", str(tmp_path / "compare.yaml")]) == 130
    assert "the same command, without --force, goes on where it stopped" in capsys.readouterr().err
