"""The entry point: exit codes, one line an error, and `--help` that stays quick."""

import argparse
import os
import resource
import subprocess
import sys

import pytest

from litseq import __version__
from litseq.cli import main as cli
from litseq.errors import BundleError, DataError, ExportError, LitseqError, UsageError


def raising(error):
    def run(argv):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a\n  b"), 2),
        (DataError("a b"), 2),
        (BundleError("a b"), 2),
        (ExportError("a b"), 1),
        (LitseqError("a b"), 1),
    ],
)
def test_litseq_errors_are_one_line_and_an_exit_code(monkeypatch, capsys, error, code):
    monkeypatch.setattr(cli, "_dispatch", raising(error))
    assert cli.main(["x"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", "litseq: error: a b\n")


def test_unexpected_error_names_its_type_and_how_to_see_the_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_dispatch", raising(RuntimeError("odd\nthing")))
    assert cli.main(["x"]) == 1
    assert capsys.readouterr().err == (
        "litseq: error: RuntimeError: odd thing (set LITSEQ_TRACEBACK=1 for the traceback)\n"
    )


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("LITSEQ_TRACEBACK", "1")
    monkeypatch.setattr(cli, "_dispatch", raising(DataError("a")))
    with pytest.raises(DataError):
        cli.main(["x"])


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output_is_nowhere(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)  # what Python makes of a closed one

    def run(argv):
        print("a", file=getattr(sys, name), flush=True)
        return 0

    monkeypatch.setattr(cli, "_dispatch", run)
    assert cli.main(["x"]) == 0
    getattr(sys, name).close()


def test_interrupt_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_dispatch", raising(KeyboardInterrupt()))
    assert cli.main(["x"]) == 130
    assert capsys.readouterr().err.startswith("litseq: error: interrupted")


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["export"], ["export", "a", "b", "--tolerance", "x"]])
def test_wrong_usage_exits_2(argv, capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(argv)
    assert info.value.code == 2
    assert "litseq" in capsys.readouterr().err


def test_every_command_of_the_help_has_one(capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(["--help"])
    assert info.value.code == 0
    out = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "export", "generate", "inspect", "demo", "compare"):
        assert command in out
    parser = cli.build_parser()
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    # Those that read a configuration have their own parsers, which need the extra [train].
    for command in set(actions[0].choices) - {*cli.LIGHTNING_COMMANDS, cli.COMPARE}:
        with pytest.raises(SystemExit) as info:
            cli.main([command, "--help"])
        assert info.value.code == 0


def test_version(capsys):
    with pytest.raises(SystemExit) as info:
        cli.main(["--version"])
    assert info.value.code == 0
    assert capsys.readouterr().out == f"litseq {__version__}\n"


def test_help_imports_no_room_and_is_quick():
    code = (
        "import sys\n"
        "from litseq.cli.main import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = {'torch', 'lightning', 'onnx', 'onnxruntime', 'numpy', 'tokenizers', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    # Processor time, not the clock: the machine may be busy with something else.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "litseq", "--help"], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3


def test_missing_extra_names_the_install_command(tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'lightning'):\n"
        "    sys.modules[name] = None\n"
        "from litseq.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    checkpoint = tmp_path / "a.ckpt"
    checkpoint.write_bytes(b"x")
    for argv in (["fit", "-c", "c.yaml"], ["export", str(checkpoint), str(tmp_path / "out")], ["demo"]):
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install 'litseq[train]'" in done.stderr


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys\n"
        "from litseq.cli import main as cli\n"
        "def dispatch(argv):\n"
        "    for i in range(100_000):\n"
        "        print(i)\n"
        "    return 0\n"
        "cli._dispatch = dispatch\n"
        "sys.exit(cli.main([]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=30) == 0


def test_environment_switch_off(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "LITSEQ_TRACEBACK", "0")
    monkeypatch.setattr(cli, "_dispatch", raising(DataError("a")))
    assert cli.main(["x"]) == 2
    assert capsys.readouterr().err == "litseq: error: a\n"
