"""`litseq generate` from files and pipes of any size: streaming, formats, and order."""

import gzip
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from cli.files import BUNDLE, FAST, names
from litseq.cli import _lines
from litseq.runtime import Generator


@pytest.fixture(scope="module")
def generator():
    return Generator.from_bundle(BUNDLE, threads=1)


def test_a_pipe_is_answered_line_by_line(generator):
    command = [sys.executable, "-m", "litseq", "generate", BUNDLE, *FAST]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, env=buffered, **pipes) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        for text in ("the fox", "größe"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            (wanted,) = generator.generate([text], max_new_tokens=5)
            assert process.stdout.readline() == " ".join(wanted.text.splitlines()) + "\n"
        process.stdin.write("last")
        process.stdin.close()
        assert len(process.stdout.read().splitlines()) == 1
        guard.cancel()


def test_a_named_pipe_or_device_is_written_as_it_is(run, tmp_path, source):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert run("--input", "in.txt", "--output", "pipe") == (0, "", "")
    reader.join()
    assert "cannot be resumed" in run("--input", "in.txt", "--output", "pipe", "--resume")[2]
    assert len(read[0].splitlines()) == 90
    assert names(tmp_path) == ["in.txt", "pipe"]


def test_json_in_and_out(run, tmp_path, generator):
    lines = [{"id": 7, "prompt": "the fox", "text": "theirs"}, {"prompt": [5, 6], "id": "b"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (
        run("--input", "in.jsonl", "--output", "out.jsonl", "--num-beams", "3", "--num-return-sequences", "2")[0] == 0
    )
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in found] == [7, 7, "b", "b"]
    assert [line["prompt"] for line in found] == ["the fox", "the fox", [5, 6], [5, 6]]
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}
    assert [line["token_ids"] for line in found] == [
        c.token_ids for c in generator.generate(["the fox", [5, 6]], **options)
    ]
    assert found[0]["score"] >= found[1]["score"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("no json", "line 2 is no JSON"),
        ('{"text": "a"}', "line 2 has no prompt"),
        ("[1]", "line 2 has no prompt"),
        ('{"prompt": 3}', "line 2: prompt is '3'"),
        ('{"prompt": [true]}', "line 2: prompt is '[True]'"),
        ('{"prompt": [999]}', "line 2: the prompt has the token id 999"),
        ('{"prompt": []}', "line 2: the prompt is empty; give at least one token"),
        ("[" * 100_000, "line 2 is no JSON"),
        ("", "line 2 is no JSON"),
    ],
)
def test_lines_that_are_no_prompts(run, tmp_path, line, words):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' + line + '\n{"prompt": "b", "id": 1}\n')
    code, _, err = run("--input", "in.jsonl", "--output", "out.txt")
    assert code == 2
    assert f"in.jsonl {words}" in err
    assert err.endswith("; 1 prompts are kept in out.txt.partial; go on with --resume\n")
    # Skipped on, the line is empty, and those behind it stay in their places.
    assert run("--input", "in.jsonl", "--output", "out.txt", "--resume", "--on-error", "skip")[0] == 0
    assert (tmp_path / "out.txt").read_text().split("\n")[1] == ""
    assert run("--input", "in.jsonl", "--output", "out.jsonl", "--on-error", "skip")[0] == 0
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert words in found[1]["error"]
    assert [("error" in line) for line in found] == [False, True, False]


@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_blank_lines_at_the_end_of_json_are_none(run, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(_lines, "_CHUNK", chunk)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n\n \r\n\n')
    code, out, err = run("--input", "in.jsonl", "--json")
    assert (code, err) == (0, "")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["a", "b"]
    (tmp_path / "in.jsonl").write_text("\n\n")
    assert "in.jsonl is empty" in run("--input", "in.jsonl")[2]


def test_text_lines_that_cannot_be_used(run, tmp_path):
    lines = [b"fine", b"bad \xff", b"x" * 70, b"y" * (_lines.MOST_BYTES + 1), b"last"]
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    code, out, err = run("--input", "in.txt", "--on-error", "skip")
    assert code == 0
    assert (
        err
        == "litseq: skipped 3 prompts; the first: in.txt line 2 is no UTF-8 (invalid start byte); convert the file to UTF-8\n"
    )
    assert [bool(line) for line in out.split("\n")] == [True, False, False, False, True, False]
    (tmp_path / "in.txt").write_bytes(b"fine\n" + lines[3])
    assert "in.txt line 2 is longer than 1,048,576 bytes; expected one prompt a line" in run("--input", "in.txt")[2]
    (tmp_path / "in.txt").write_bytes(b"fine\n" + lines[2])
    assert "in.txt line 2: the prompt has 71 tokens, the model takes at most 64" in run("--input", "in.txt")[2]


@pytest.mark.parametrize("target", [(), ("--output", "out.jsonl")])
def test_lone_surrogates_are_passed_on_as_they_came(run, tmp_path, target):
    """JSON may hold them as escapes, and UTF-8 may not."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "\\udc00x", "id": 1}\n{"prompt": "a", "\\ud800": "\\udfff"}\n')
    code, out, _ = run("--input", "in.jsonl", "--json", "--on-error", "skip", *target)
    assert code == 0
    first, second = (
        json.loads(line) for line in ((tmp_path / "out.jsonl").read_text() if target else out).splitlines()
    )
    assert (first["prompt"], first["id"]) == ("\udc00x", 1)
    assert "is no valid Unicode" in first["error"]
    assert second["\ud800"] == "\udfff"


def test_lines_are_cut_alike_however_they_come():
    content = b"one\n\n" + b"z" * 5000 + b"\nlast"

    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(min(7, size))

    for stream in (io.BytesIO(content), Slow(content)):
        lines = _lines.Lines(stream, "it")
        assert lines.take(2, wait=True) == ["one", ""]
        assert list(lines.skip(1)) == [b"z" * 5000]
        assert lines.take(9, wait=False) == ["last"]
        assert lines.take(9, wait=True) == []
        assert (lines.count, lines.share) == (4, 1.0)


def test_lines_hold_little_of_a_file(tmp_path):
    """A run reads on when it needs more, not before."""
    (tmp_path / "in.txt").write_bytes(b"some words\n" * 200_000)
    with _lines.open_lines(tmp_path / "in.txt") as lines:
        for _ in range(5):
            assert len(lines.take(100, wait=True)) == 100
        assert len(lines._lines) < 10_000
        assert 0 < lines.share < 0.1


def test_a_bar_is_shown_on_a_terminal_only(run, tmp_path, source):
    import pty

    assert run("--input", "in.txt", "--output", "out.txt")[2] == ""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "litseq", "generate", BUNDLE, *FAST, "--input", "in.txt"]
    process = subprocess.Popen([*command, "--output", "again.txt"], cwd=tmp_path, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    assert b"90 of 90 prompts" in shown
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "out.txt").read_bytes()


def test_workers_write_the_same(run, source):
    assert run("--input", "in.txt", "--workers", "2") == run("--input", "in.txt", "--workers", "1")


def test_packed_outputs(run, tmp_path, source):
    assert run("--input", "in.txt", "--output", "out.txt.gz")[0] == 0
    assert gzip.decompress((tmp_path / "out.txt.gz").read_bytes()).decode() == run("--input", "in.txt")[1]
    assert names(tmp_path) == ["in.txt", "out.txt.gz"]


def test_names_in_capitals_say_the_same(run, tmp_path):
    (tmp_path / "IN.JSONL.GZ").write_bytes(gzip.compress(b'{"prompt": "the fox"}\n'))
    assert run("--input", "IN.JSONL.GZ", "--output", "OUT.JSONL.GZ")[0] == 0
    found = json.loads(gzip.decompress((tmp_path / "OUT.JSONL.GZ").read_bytes()))
    assert found["prompt"] == "the fox"


def test_flags_reach_the_options(run, generator):
    beams = ("--num-beams", "4", "--num-beam-groups", "2", "--diversity-penalty", "0.7", "--length-penalty", "0.5")
    more = ("--early-stopping", "never", "--bad-words", "a", "--bad-words", "b", "--prefix", "z", "--no-prompt-lookup")
    code, out, _ = run("the fox", *beams, *more)
    assert code == 0
    (wanted,) = generator.generate(
        ["the fox"],
        max_new_tokens=5,
        num_beams=4,
        num_beam_groups=2,
        diversity_penalty=0.7,
        length_penalty=0.5,
        early_stopping="never",
        bad_words=["a", "b"],
        prefix="z",
    )
    assert out == wanted.text + "\n"
    assert out.startswith("z")
