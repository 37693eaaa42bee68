"""`litseq generate` over files, interrupted and resumed."""

import json
import signal
import subprocess
import sys

import pytest

from cli.files import BUNDLE, FAST, names
from litseq.cli import _partial
from litseq.cli import main as cli
from runtime.fixtures import fixture_path

SAMPLED = ("--temperature", "1.3", "--seed", "11")


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


@pytest.mark.parametrize("name", ["out.txt", "out.txt.gz"])
def test_an_output_that_cannot_take_its_place_is_kept(run, tmp_path, source, monkeypatch, name):
    replace = _partial.os.replace

    def full(old, new):
        if _partial.Path(new).name == name:
            raise OSError(28, "No space left on device")
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(_partial.os, "replace", full)
        code, _, err = run("--input", "in.txt", "--output", name)
    assert code == 2
    assert f"{name} cannot be written: No space left on device" in err
    assert err.endswith(f"prompts are kept in {name}.partial; go on with --resume\n")
    assert names(tmp_path) == sorted(["in.txt", f"{name}.partial", f"{name}.partial.json"])
    assert run("--input", "in.txt", "--output", name, "--resume") == (0, "", "")
    assert names(tmp_path) == ["in.txt", name]


FULL = """
import resource, sys
from litseq.cli import _partial, main
_partial._NOTE_SECONDS = float(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
sys.exit(main.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("note_seconds", "is_kept"), [("0", True), ("60", False)])
def test_a_disk_that_fills_up_is_named_and_what_was_noted_is_kept(run, tmp_path, source, note_seconds, is_kept):
    pytest.importorskip("resource")
    whole = ("--input", "in.txt", *SAMPLED, "--json")
    command = [sys.executable, "-c", FULL, note_seconds, "generate", BUNDLE, *FAST, *whole, "--output", "out.txt"]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    said = "litseq: error: out.txt.partial cannot be written: File too large; mend that"
    assert (ended.returncode, ended.stdout) == (2, "")
    if is_kept:
        done = json.loads((tmp_path / "out.txt.partial.json").read_text())["done"]
        assert 0 < done < 90
        assert ended.stderr == f"{said}; {done} prompts are kept in out.txt.partial; go on with --resume\n"
    else:
        assert ended.stderr == f"{said}\n"
        assert names(tmp_path) == ["in.txt"]
    assert run(*whole, "--output", "out.txt", "--resume") == (0, "", "")
    assert run(*whole, "--output", "whole.txt")[0] == 0
    assert (tmp_path / "out.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()


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
            _partial.lock(stream, partial, "wait")
            error = self.refused(run, "--input", "in.txt", "--output", "out.txt", "--force")
        assert "is being written by another process" in error

    def test_texts_of_the_command_line(self, run, source, monkeypatch):
        with monkeypatch.context() as patch:
            stop_after(1, KeyboardInterrupt(), patch)
            assert run("a", "b c", "d", "--output", "out.txt")[0] == 130
        assert "the first 1 prompts differ" in self.refused(run, "e", "b c", "d", "--output", "out.txt", "--resume")
        assert run("a", "b c", "d", "--output", "out.txt", "--resume")[0] == 0
        assert (source.parent / "out.txt").read_text() == run("a", "b c", "d")[1]
