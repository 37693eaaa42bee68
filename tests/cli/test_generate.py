"""`litseq generate` over a committed bundle."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litseq.cli import main as cli
from litseq.runtime import Generator
from runtime.fixtures import fixture_path

BUNDLE = str(fixture_path("tiny-encoder-decoder"))
FAST = ("--threads", "1", "--max-new-tokens", "6")


@pytest.fixture(scope="module")
def generator():
    return Generator.from_bundle(BUNDLE, threads=1)


def run(capsys, *arguments):
    code = cli.main(["generate", BUNDLE, *FAST, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def feed(monkeypatch, content: bytes):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_texts_on_the_command_line(capsys, generator):
    code, out, _ = run(capsys, "the fox", "größe")
    assert code == 0
    wanted = generator.generate(["the fox", "größe"], max_new_tokens=6)
    assert out == "".join(c.text + "\n" for c in wanted)


@pytest.mark.parametrize(
    "arguments",
    [
        (BUNDLE, "a", "b", "--threads", "1", "--max-new-tokens", "6"),
        ("--threads", "1", BUNDLE, "a", "--max-new-tokens", "6", "b"),
        (BUNDLE, "--threads", "1", "a", "--max-new-tokens", "6", "b"),
        ("--threads", "1", "--max-new-tokens", "6", BUNDLE, "--", "a", "b"),
        ("--threads", "1", "--max-new-tokens", "6", "--", BUNDLE, "a", "b"),
    ],
)
def test_texts_and_options_stand_in_any_order(capsys, generator, arguments):
    assert cli.main(["generate", *arguments]) == 0
    wanted = generator.generate(["a", "b"], max_new_tokens=6)
    assert capsys.readouterr().out == "".join(c.text + "\n" for c in wanted)


def test_a_text_that_looks_like_an_option(capsys, generator):
    code, out, _ = run(capsys, "--", "--5 degrees")
    assert (code, out) == (0, generator.generate(["--5 degrees"], max_new_tokens=6)[0].text + "\n")


def test_standard_input_is_read_a_prompt_a_line(capsys, monkeypatch, generator):
    feed(monkeypatch, "the fox\n\ngröße\r\nlast".encode())
    code, out, _ = run(capsys)
    assert code == 0
    wanted = generator.generate(["the fox", "", "größe", "last"], max_new_tokens=6)
    assert out.split("\n") == [*(" ".join(c.text.splitlines()) for c in wanted), ""]


def test_streaming_writes_the_same(capsys):
    assert run(capsys, "the fox", "a", "--stream") == run(capsys, "the fox", "a")


def test_streaming_skips_what_cannot_be_used(capsys, monkeypatch):
    content = "the fox\n" + "x" * 99 + "\na\n"
    feed(monkeypatch, content.encode())
    plain = run(capsys, "--on-error", "skip")
    feed(monkeypatch, content.encode())
    code, out, err = run(capsys, "--on-error", "skip", "--stream")
    assert (code, out) == plain[:2]
    assert "skipped 1 prompts; the first: the prompt has 100 tokens" in err
    feed(monkeypatch, content.encode())
    assert run(capsys, "--stream")[0] == 2
    feed(monkeypatch, content.encode())
    code, out, err = run(capsys, "--on-error", "skip", "--stream", "--top-p", "3")
    assert (code, out) == (2, "")


def test_a_draft_bundle_changes_nothing(capsys):
    assert run(capsys, "the fox", "a", "--draft", BUNDLE, "--prompt-lookup") == run(capsys, "the fox", "a")
    code, _, err = run(capsys, "a", "--draft", str(fixture_path("tiny-decoder-only")))
    assert (code, err.count("\n")) == (2, 1)
    assert "the draft bundle does not fit: its architecture is 'decoder-only'" in err


@pytest.mark.parametrize("suffix", ["txt", "txt.gz"])
def test_files_in_and_out(capsys, tmp_path, suffix, generator):
    source, target = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    content = "the fox\n你好\n".encode()
    source.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    code, out, _ = run(capsys, "--input", str(source), "--output", str(target), "--json", "--logprobs")
    assert (code, out) == (0, "")
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["the fox", "你好"]
    (wanted,) = generator.generate(["the fox"], max_new_tokens=6, logprobs=True)
    assert lines[0]["token_ids"] == wanted.token_ids
    assert lines[0]["score"] == pytest.approx(wanted.score, abs=1e-4)
    assert len(lines[0]["logprobs"]) == len(wanted.token_ids)
    assert "top_logprobs" not in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([source.name, "out.jsonl"])


def test_what_json_has_no_number_for_is_null(capsys, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "the fox", "weights": [NaN, 1.5, -Infinity]}\n')
    code, out, _ = run(capsys, "--input", str(source), "--json")
    assert code == 0
    assert json.loads(out, parse_constant=pytest.fail)["weights"] == [None, 1.5, None]


def test_options_reach_the_generation(capsys, generator):
    sampling = ("--temperature", "1.4", "--top-k", "30", "--top-p", "0.95", "--min-p", "0.01", "--seed", "7")
    code, out, _ = run(capsys, "the fox", *sampling, "--repetition-penalty", "1.2", "--no-repeat-ngram-size", "2")
    assert code == 0
    wanted = generator.generate(
        ["the fox"],
        max_new_tokens=6,
        temperature=1.4,
        top_k=30,
        top_p=0.95,
        min_p=0.01,
        seed=7,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
    )
    assert out == wanted[0].text + "\n"
    (free,) = generator.generate(["the fox"], max_new_tokens=6, min_new_tokens=6)
    code, out, _ = run(capsys, "the fox", "--min-new-tokens", "6", "--stop", "never", "--stop", free.text[2])
    assert out == free.text[: free.text.index(free.text[2])] + "\n"


def test_an_existing_output_is_refused_before_any_work_and_replaced_by_force(capsys, tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    code, _, err = run(capsys, "a", "--output", str(target))
    assert code == 2
    assert "exists; choose another name, or replace it with --force" in err
    assert target.read_text() == "old"
    assert run(capsys, "a", "--output", str(target), "--force")[0] == 0
    assert target.read_text() != "old"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; expected one prompt a line"),
        (b"fine\nbad \xff\n", "line 2 is no UTF-8"),
        (None, "cannot be read: No such file"),
    ],
)
def test_inputs_that_cannot_be_read(capsys, tmp_path, content, words):
    source, target = tmp_path / "in.txt", tmp_path / "out.txt"
    if content is not None:
        source.write_bytes(content)
    code, out, err = run(capsys, "--input", str(source), "--output", str(target))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b"one\ntwo\n" * 999)[:-9], "is cut off after line"),
        (b"no gzip", "is no valid .gz file"),
        (gzip.compress(b""), "is empty"),
    ],
    ids=["cut off", "no gzip", "empty"],
)
def test_gz_files_that_cannot_be_read(capsys, tmp_path, content, words):
    (tmp_path / "in.gz").write_bytes(content)
    code, _, err = run(capsys, "--input", str(tmp_path / "in.gz"))
    assert code == 2
    assert words in err


def test_no_standard_input_at_all(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)  # what Python makes of a closed one
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "standard input is closed; give prompts as TEXT or with --input" in err


def test_empty_standard_input(capsys, monkeypatch):
    feed(monkeypatch, b"")
    code, _, err = run(capsys)
    assert code == 2
    assert "standard input is empty" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "--input", "x"), "both TEXT and --input"),
        (("a", "--stream", "--json"), "--stream writes plain text"),
        (("a", "--force"), "--force is for --output"),
        (("a", "--output", "/nowhere/x"), "/nowhere does not exist"),
        (("a", "--output", "/tmp"), "/tmp is a directory"),
        (("a", "--output", "."), ". is a directory"),
        (("a", "--top-p", "3"), "top_p is 3.0"),
        (("a", "--threads", "0"), "threads is 0"),
        (("a", "--batch-size", "0"), "batch_size is 0"),
        (("a", "--workers", "0"), "workers is 0"),
        (("x" * 99,), "prompt 0 has 100 tokens, the model takes at most 64; shorten it"),
    ],
)
def test_usage_errors_are_one_line(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_a_bundle_that_is_none(capsys, tmp_path):
    assert cli.main(["generate", str(tmp_path), "a"]) == 2
    assert "is no bundle" in capsys.readouterr().err


def test_an_interrupted_run_leaves_no_output_in_its_place(tmp_path, start):
    (tmp_path / "in.txt").write_text("the fox\n" * 20_000)
    command = [sys.executable, "-m", "litseq", "generate", BUNDLE, "--threads", "1", "--min-new-tokens", "60"]
    command += ["--max-new-tokens", "60", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.txt")]
    process = start(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    # At work once onnxruntime is loaded; how long that takes depends on the machine.
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while "onnxruntime" not in maps.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    # What it had written, if anything, is kept beside; test_generate_files continues it.
    assert not (tmp_path / "out.txt").exists()
    assert ("go on with --resume" in err) == (tmp_path / "out.txt.partial").exists()
