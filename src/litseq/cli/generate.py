"""`litseq generate BUNDLE [TEXT ...]`: text from a bundle, with onnxruntime."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from litseq.errors import DataError, UsageError

if TYPE_CHECKING:
    from litseq.runtime import Completion

_WHOLE = {
    "max_new_tokens": "tokens at most (default: the bundle's, or what fits the model)",
    "min_new_tokens": "tokens at least",
    "top_k": "sample among the K likeliest tokens",
    "no_repeat_ngram_size": "no sequence of N tokens occurs twice",
    "seed": "sample the same tokens again",
    "top_logprobs": "with --json: the K likeliest tokens of each step",
}
_REAL = {
    "temperature": "above 0: sample; lower is safer",
    "top_p": "sample among the fewest tokens that sum to this probability",
    "min_p": "drop tokens less likely than this times the likeliest",
    "repetition_penalty": "above 1: tokens that occurred become less likely",
}


class _IntermixedParser(argparse.ArgumentParser):
    """Takes TEXT in front of and behind options; a plain parser takes what precedes the first option and refuses the rest."""

    _within = False

    def parse_known_args(  # type: ignore[override]  # one signature in place of typeshed's overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self._within:  # parse_known_intermixed_args is made of calls to this method
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `generate`."""
    parser = subparsers.add_parser(
        "generate",
        help="generate text from a bundle",
        description="Generate from a bundle with onnxruntime. Without TEXT and --input, standard input is read, one prompt a line.",
    )
    # argparse offers no other way to choose the class of a subparser.
    parser.__class__ = _IntermixedParser
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a directory that `litseq export` wrote")
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="a prompt; for an encoder-decoder the source")
    parser.add_argument("--input", metavar="FILE", type=Path, help="read prompts from FILE (also .gz), one a line")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="write to FILE when all is done, not to standard output"
    )
    parser.add_argument("--force", action="store_true", help="replace the --output file when it exists")
    parser.add_argument(
        "--json", action="store_true", help="write one JSON object a line, with tokens and finish reason"
    )
    parser.add_argument("--stream", action="store_true", help="write text as soon as it is certain")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument(
        "--batch-size", type=int, default=32, metavar="N", help="rows at the same time (default: %(default)s)"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not check the hashes of the bundle's files")
    options = parser.add_argument_group("generation options")
    for kind, names, metavar in ((int, _WHOLE, "N"), (float, _REAL, "X")):
        for name, text in names.items():
            options.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)
    options.add_argument(
        "--stop", action="append", metavar="TEXT", help="end where TEXT appears; may be given several times"
    )
    options.add_argument(
        "--logprobs", action="store_true", default=None, help="with --json: log-probabilities of the tokens"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the prompts, generate, and write one output a prompt."""
    _check(args)
    if args.texts:
        prompts = list(args.texts)
    else:
        prompts = read_lines(args.input)

    from litseq.runtime import Generator

    names = (*_WHOLE, *_REAL, "stop", "logprobs")
    options = {name: value for name in names if (value := getattr(args, name)) is not None}
    generator = Generator.from_bundle(
        args.bundle, threads=args.threads, batch_size=args.batch_size, verify=not args.no_verify
    )
    if args.stream:
        for prompt in prompts:
            for piece in generator.stream(prompt, **options):
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n")
        return 0
    completions = generator.generate(prompts, **options)
    with _output(args.output) as stream:
        for prompt, completion in zip(prompts, completions, strict=True):
            if args.json:
                stream.write(as_json(prompt, completion) + "\n")
            else:
                # One line a prompt, so that line i of the output belongs to line i of the input.
                stream.write((completion.text if args.texts else " ".join(completion.text.splitlines())) + "\n")
    return 0


def read_lines(file: Path | None) -> list[str]:
    """The lines of a UTF-8 file (also .gz), or of standard input, without their ends.

    Raises:
        DataError: when the file cannot be read, is cut off, or a line is no UTF-8.
    """
    name = str(file or "standard input")
    lines: list[str] = []
    try:
        with _open(file) as stream:
            for raw in stream:
                lines.append(raw.decode("utf-8").removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} line {len(lines) + 1} is no UTF-8 ({error.reason}); convert the file to UTF-8"
        ) from error
    except EOFError as error:
        raise DataError(f"{name} is cut off after line {len(lines)}; download or copy it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is no valid .gz file ({error}); download or copy it again") from error
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    if not lines:
        raise DataError(f"{name} is empty; expected one prompt a line")
    return lines


def as_json(prompt: str, completion: Completion) -> str:
    """One completion as a line of JSON; log-probabilities only where there are some."""
    values: dict[str, object] = {
        "prompt": prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "token_ids": completion.token_ids,
    }
    optional = {
        "score": completion.score,
        "logprobs": completion.logprobs,
        "top_logprobs": completion.top_logprobs,
    }
    return json.dumps(values | {k: v for k, v in optional.items() if v is not None}, ensure_ascii=False)


def _check(args: argparse.Namespace) -> None:
    if args.texts and args.input:
        raise UsageError("both TEXT and --input are given; give the prompts in one place")
    if args.stream and (args.json or args.output):
        raise UsageError("--stream writes plain text to standard output; leave out --json and --output")
    if args.force and not args.output:
        raise UsageError("--force is for --output, which is not given")
    if args.output is None:
        return
    if args.output.is_dir():
        raise UsageError(f"{args.output} is a directory; give a file name to --output")
    if args.output.exists() and not args.force:
        raise UsageError(f"{args.output} exists; choose another name, or replace it with --force")
    if not args.output.parent.is_dir():
        raise UsageError(f"{args.output.parent} does not exist; make the directory first")


@contextmanager
def _open(file: Path | None) -> Iterator[Iterator[bytes]]:
    if file is None:
        yield iter(sys.stdin.buffer)
    elif file.suffix == ".gz":
        with gzip.open(file, "rb") as zipped:
            yield iter(zipped)
    else:
        with file.open("rb") as plain:
            yield iter(plain)


@contextmanager
def _output(file: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears complete at the end or not at all."""
    if file is None:
        yield sys.stdout
        return
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.partial-", dir=file.parent)
    except OSError as error:
        raise UsageError(f"{file.parent} cannot be written: {error.strerror}; choose another place") from error
    try:
        with open(handle, "w", encoding="utf-8") as stream:
            yield stream
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
