"""The entry point `litseq`: find the subcommand, run it, turn what goes wrong into one line and an exit code."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from litseq import __version__
from litseq.errors import LitseqError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# LightningCLI parses these itself, with every option of the model, the data and the Trainer.
LIGHTNING_COMMANDS = {
    "fit": "train a model: litseq fit -c config.yaml",
    "validate": "run the validation set through a checkpoint",
    "test": "run the test set through a checkpoint",
    "predict": "run the prediction set through a checkpoint",
}

# So does this one, from a configuration of its own.
COMPARE, COMPARE_HELP = (
    "compare",
    "train, export and compare architectures on your data: litseq compare -c compare.yaml",
)

_TRACEBACK = "LITSEQ_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `litseq` command.

    Args:
        argv: The arguments after the program's name; `None` takes the process's own.

    Returns:
        0 done, 1 the work failed, 2 wrong usage or bad input, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until the end
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # here, where a closed pipe is still caught
    except LitseqError as error:
        _maybe_raise(error)
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. The interpreter flushes stdout once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or "interrupted; nothing half-written was kept", INTERRUPTED)
    except Exception as error:
        _maybe_raise(error)
        reason = str(error) or "no message"
        return _fail(f"{type(error).__name__}: {reason} (set {_TRACEBACK}=1 for the traceback)", FAILED)
    return code


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in LIGHTNING_COMMANDS:
        from litseq._extras import require_extra

        require_extra("train", f"litseq {argv[0]}")
        from litseq.cli import train

        return train.run(argv)
    if argv and argv[0] == COMPARE:
        from litseq._extras import require_extra

        require_extra("train", "litseq compare")
        from litseq.cli import compare

        signal.signal(signal.SIGTERM, _terminate)
        return compare.run(argv[1:])
    args = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    signal.signal(signal.SIGTERM, _terminate)
    return run(args)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command but those that read a configuration; they are only listed."""
    from litseq.cli import average, bench, chat, demo, export, generate, inspect, quantize

    parser = argparse.ArgumentParser(
        prog="litseq",
        description="Train sequence models with Lightning, export them to ONNX with their cache, run them without torch.",
        epilog="exit codes: 0 done, 1 the work failed, 2 wrong usage or bad input",
    )
    parser.add_argument("--version", action="version", version=f"litseq {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in (*LIGHTNING_COMMANDS.items(), (COMPARE, COMPARE_HELP)):
        subparsers.add_parser(name, help=text, add_help=False)
    for module in (export, quantize, average, generate, chat, inspect, bench, demo):
        module.add_parser(subparsers)
    return parser


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    # A progress bar that was cut off may still stand between us and the real stream.
    stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    print(f"litseq: error: {line}", file=stream)
    return code


def _maybe_raise(error: Exception) -> None:
    if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
        raise error


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # As an exception, so that staged files are removed on the way out.
    raise SystemExit(128 + signal.SIGTERM)
