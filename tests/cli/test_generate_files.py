"""`litseq generate` from files and pipes of any size: streaming, order, interruption and resumption."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from litseq.cli import _lines, _partial
from litseq.cli import main as cli
from litseq.runtime import Generator
from runtime.fixtures import fixture_path

BUNDLE = str(fixture_path("tiny-encoder-decoder"))
FAST = ("--threads", "1", "--max-new-tokens", "5", "--batch-size", "8")
SAMPLED = ("--temperature", "1.3", "--seed", "11")
WORDS = ["the fox", "größe", "", "a dog", "one two three", "你好", "x"]
PROMPTS = [f"{WORDS[i % 7]} {i}" if i % 7 != 2 else "" for i in range(90)]


@pytest.fixture(scope="module")
def generator():
    return Generator.from_bundle(BUNDLE, threads=1)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run over files of the directory; exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(["generate", BUNDLE, *FAST, *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return file


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def stop_after(count, error, monkeypatch):
    """Let the run end with `error` when `count` outputs are written."""
    write = _partial.PartialOutput.write

    def broken(self, text, raw):
        if self.done == count:
            raise error
        write(self, text, raw)

    monkeypatch.setattr(_partial.PartialOutput, "write", broken)


KILLED = """
import os, signal, sys
from litseq.cli import _partial, main
write = _partial.PartialOutput.write
_partial._NOTE_SECONDS = 0.0
def dying(self, text, raw):
    if self.done == 40:
        self._stream.write(b"half a li")
        self._stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, text, raw)
_partial.PartialOutput.write = dying
main.main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["out.txt", "out.jsonl", "out.txt.gz"])
def test_killed_and_resumed_is_byte_for_byte_the_uninterrupted_run(run, tmp_path, source, name):
    whole = ("--input", "in.txt", *SAMPLED, "--num-return-sequences", "2")
    assert run(*whole, "--output", f"whole-{name}")[0] == 0
    command = [sys.executable, "-c", KILLED, "generate", BUNDLE, *FAST, *whole, "--output", name]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    assert names(tmp_path) == sorted(["in.txt", f"whole-{name}", f"{name}.partial", f"{name}.partial.json"])
    assert (tmp_path / f"{name}.partial").read_bytes().endswith(b"half a li")
    code, out, err = run(*whole, "--output", name)
    assert (code, out) == (2, "")
    assert err == (
        f"litseq: error: {name}.partial holds 40 prompts of an interrupted run; go on with --resume, or start again "
        "with --force\n"
    )
    assert run(*whole, "--output", name, "--resume") == (0, "", "")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()
    assert names(tmp_path) == sorted(["in.txt", f"whole-{name}", name])


def test_interrupts_keep_what_is_done(run, tmp_path, source, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(33, KeyboardInterrupt(), patch)
        code, _, err = run("--input", "in.txt", "--output", "out.txt")
    assert code == 130
    assert err == "litseq: error: interrupted; 33 prompts are kept in out.txt.partial; go on with --resume\n"
    with monkeypatch.context() as patch:
        stop_after(50, SystemExit(143), patch)
        with pytest.raises(SystemExit):
            run("--input", "in.txt", "--output", "out.txt", "--resume")
    assert json.loads((tmp_path / "out.txt.partial.json").read_text())["done"] == 50
    assert run("--input", "in.txt", "--output", "out.txt", "--resume")[0] == 0
    assert run("--input", "in.txt", "--output", "whole.txt")[0] == 0
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


def test_an_interrupt_before_the_first_output_leaves_nothing(run, tmp_path, source, monkeypatch):
    stop_after(0, KeyboardInterrupt(), monkeypatch)
    code, _, err = run("--input", "in.txt", "--output", "out.txt")
    assert (code, err) == (130, "litseq: error: interrupted; nothing half-written was kept\n")
    assert names(tmp_path) == ["in.txt"]


@pytest.fixture
def partial(run, source, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(20, KeyboardInterrupt(), patch)
        run("--input", "in.txt", "--output", "out.txt", "--seed", "1")
    return source.parent / "out.txt.partial"


class TestResume:
    """What is continued must be what was begun."""

    def refused(self, run, *arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        return err

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--seed", "2"), "was made with options {'seed': 1, 'max_new_tokens': 5}, not"),
            (("--seed", "1", "--json"), "was made with json False, not True; give the same"),
        ],
    )
    def test_other_options(self, run, partial, options, words):
        before = partial.read_bytes()
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", *options)
        assert words.split("{")[0] in error
        assert partial.read_bytes() == before

    def test_another_bundle(self, run, partial):
        arguments = ("--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1", "--max-new-tokens", "5")
        other = str(fixture_path("tiny-decoder-only"))
        assert cli.main(["generate", other, *arguments]) == 2
        assert partial.exists()

    def test_another_input(self, run, partial, source):
        source.write_text(source.read_text().replace("fox 0", "fix 0"))
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")
        assert "the first 20 prompts differ" in error
        source.write_text("the fox 0\n")
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")
        assert "the first 20 prompts differ" in error
        assert partial.exists()

    def test_an_input_that_grew_or_changed_behind(self, run, partial, source):
        source.write_text(source.read_text() + "more\n")
        assert run("--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")[0] == 0
        assert len((source.parent / "out.txt").read_text().splitlines()) == 91

    def test_force_starts_again(self, run, partial, source):
        assert run("--input", "in.txt", "--output", "out.txt", "--force", "--seed", "2")[0] == 0
        assert names(source.parent) == ["in.txt", "out.txt"]

    def test_nothing_to_resume_starts(self, run, source):
        assert run("--input", "in.txt", "--output", "out.txt", "--resume")[0] == 0
        assert "exists" in self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume")

    def test_a_damaged_partial(self, run, partial):
        partial.write_bytes(partial.read_bytes()[:5])
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")
        assert "has 5 bytes, its note says" in error
        partial.write_bytes(b"")
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")
        assert "has 0 bytes, its note says" in error
        partial.write_bytes(b"some")
        partial.with_name("out.txt.partial.json").write_text("{")
        error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--resume", "--seed", "1")
        assert "nothing says what it is" in error

    @pytest.mark.parametrize("how", [(), ("--resume",)])
    def test_a_run_that_was_killed_before_its_first_note(self, run, source, how):
        (source.parent / "out.txt.partial").touch()
        assert run("--input", "in.txt", "--output", "out.txt", *how) == (0, "", "")
        assert names(source.parent) == ["in.txt", "out.txt"]

    def test_an_output_that_was_to_be_replaced(self, run, source, monkeypatch):
        target = source.parent / "out.txt"
        target.write_text("old")
        with monkeypatch.context() as patch:
            stop_after(20, KeyboardInterrupt(), patch)
            run("--input", "in.txt", "--output", "out.txt", "--force")
        assert target.read_text() == "old"
        assert run("--input", "in.txt", "--output", "out.txt", "--resume")[0] == 0
        assert len(target.read_text().splitlines()) == 90

    def test_two_at_once(self, run, partial, source):
        with partial.open("r+b") as stream:
            _partial._lock(stream, partial)
            error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--force")
        assert "is being written by another process" in error

    def test_texts_of_the_command_line(self, run, source, monkeypatch):
        with monkeypatch.context() as patch:
            stop_after(1, KeyboardInterrupt(), patch)
            assert run("a", "b c", "d", "--output", "out.txt")[0] == 130
        assert "the first 1 prompts differ" in self.refused(run, "e", "b c", "d", "--output", "out.txt", "--resume")
        assert run("a", "b c", "d", "--output", "out.txt", "--resume")[0] == 0
        assert (source.parent / "out.txt").read_text() == run("a", "b c", "d")[1]


def test_a_pipe_is_answered_line_by_line(generator):
    command = [sys.executable, "-m", "litseq.cli.main", "generate", BUNDLE, *FAST]
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
    command = [sys.executable, "-m", "litseq.cli.main", "generate", BUNDLE, *FAST, "--input", "in.txt"]
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
