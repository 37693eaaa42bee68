"""`litseq generate BUNDLE [TEXT ...]`: text from a bundle, with onnxruntime."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litseq import __version__
from litseq._json import standard
from litseq.cli._lines import Line, Lines, Texts, is_json_name, open_lines
from litseq.cli._options import add_options, given_options
from litseq.cli._partial import PartialOutput, StreamOutput
from litseq.cli._progress import progress_bar
from litseq.errors import LitseqError, UsageError

if TYPE_CHECKING:
    from litseq.runtime import Completion, Generator

_MANY = 32
_Output = PartialOutput | StreamOutput


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
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument(
        "--draft", metavar="BUNDLE", type=Path, help="a smaller bundle with the same tokens, which guesses ahead"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="rows at the same time, of each worker (default: 32)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="loops that share the threads (default: for many prompts one a thread)"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not check the hashes of the bundle's files")
    files = parser.add_argument_group("input and output")
    files.add_argument("--input", metavar="FILE", type=Path, help="read prompts from FILE (also .gz), one a line")
    files.add_argument(
        "--input-format",
        choices=["text", "json"],
        help='json: {"prompt": "..."} a line, whose other fields are passed on (default: by the name, .jsonl is json)',
    )
    files.add_argument(
        "--output", metavar="FILE", type=Path, help="write to FILE (also .gz): in FILE.partial until all is done"
    )
    files.add_argument("--resume", action="store_true", help="go on with what an interrupted run left in FILE.partial")
    files.add_argument("--force", action="store_true", help="replace the --output file, and what a run left of it")
    files.add_argument(
        "--json",
        action="store_true",
        help="write one JSON object a line, with tokens and finish reason (default for an --output called .jsonl)",
    )
    files.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="for a prompt that cannot be used: stop, or skip it and leave its line empty (default: %(default)s)",
    )
    files.add_argument("--stream", action="store_true", help="write text as soon as it is certain")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the prompts, generate, and write the outputs, each when it is its turn."""
    _check(args)
    if args.texts:
        return _run(args, Texts(args.texts))
    with open_lines(args.input, as_json=None if args.input_format is None else args.input_format == "json") as lines:
        return _run(args, lines)


def _run(args: argparse.Namespace, source: Lines | Texts) -> int:
    options = given_options(args)
    as_json = args.json or (args.output is not None and is_json_name(args.output))
    # What the outputs follow from, besides the prompts.
    made_from = {
        "litseq": __version__,
        "bundle": _hash(args.bundle / "manifest.json"),
        "options": options,
        "json": as_json,
        "input-format": args.input_format,
    }
    with _open_output(args, made_from) as output:
        from litseq.runtime import Generator

        workers, threads = _share(args, source)
        generator = Generator.from_bundle(args.bundle, threads=threads, verify=not args.no_verify, draft=args.draft)
        if args.stream:
            _stream(generator, source, options, skips=args.on_error == "skip")
        else:
            output.follow(source.skip(output.done_before))
            _Work(args, source, output, as_json).do(generator, workers, options)
    return 0


class _Work:
    """Prompts from a source, outputs into a file."""

    def __init__(self, args: argparse.Namespace, source: Lines | Texts, output: _Output, as_json: bool) -> None:
        self._args = args
        self._source = source
        self._output = output
        self._as_json = as_json
        self._skipped = 0
        self._first_error: LitseqError | None = None

    def do(self, generator: Generator, workers: int, options: dict[str, Any]) -> None:
        """Generate from what is left of the source."""
        source, output = self._source, self._output
        start = output.done_before
        batch = {} if self._args.batch_size is None else {"batch_size": self._args.batch_size}
        run = generator.offline(source, workers=workers, start=start, name=source.where, **batch, **options)
        # Where the outputs go by on the terminal, they themselves show how far it is.
        shown = self._args.output is not None or not sys.stdout.isatty()
        with progress_bar(lambda: (run.finished, _estimate(run.taken, source.share)), start, shown=shown) as tick:

            def on_step() -> None:
                output.flush()
                tick()

            run.on_step = on_step
            for outcome in run:
                line = source.taken.popleft()
                if isinstance(outcome, LitseqError):
                    texts = [self._failed(line, outcome)] * run.options.num_return_sequences
                else:
                    texts = [self._text(line, completion) for completion in outcome]
                output.write("".join(f"{text}\n" for text in texts), line.raw)
        _tell_skipped(self._skipped, self._first_error)

    def _text(self, line: Line, completion: Completion) -> str:
        if self._as_json:
            return as_json(line, completion)
        # One line an output, so that line i of the output belongs to line i of the input.
        return completion.text if self._args.texts else " ".join(completion.text.splitlines())

    def _failed(self, line: Line, error: LitseqError) -> str:
        if self._args.on_error == "stop":
            raise error
        self._skipped += 1
        self._first_error = self._first_error or error
        values = line.fields | {"prompt": line.prompt, "error": str(error)}
        return _dumped(values) if self._as_json else ""


def as_json(line: Line, completion: Completion) -> str:
    """One completion as a line of JSON, with the other fields of its prompt; log-probabilities only where there are some."""
    values = line.fields | {
        "prompt": line.prompt,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "token_ids": completion.token_ids,
    }
    optional = {
        "score": completion.score,
        "logprobs": completion.logprobs,
        "top_logprobs": completion.top_logprobs,
    }
    return _dumped(values | {k: v for k, v in optional.items() if v is not None})


def _dumped(values: dict[str, Any]) -> str:
    """A line of JSON. A lone surrogate that came in as an escape, which no UTF-8 can hold, goes out as one."""
    line = json.dumps(standard(values), ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _share(args: argparse.Namespace, source: Lines | Texts) -> tuple[int, int]:
    """Workers, and threads of each: one a worker for many prompts, all in one for the quickest answer to a few."""
    from litseq.runtime.sessions import check_threads

    threads = check_threads(args.threads)
    many = source.waiting >= (args.batch_size or _MANY) and not args.stream
    workers: int = args.workers if args.workers is not None else threads if many else 1
    return workers, max(1, threads // max(1, workers))


def _stream(generator: Generator, source: Lines | Texts, options: dict[str, Any], *, skips: bool) -> None:
    skipped, first_error = 0, None
    generator.stream([0], **options)  # checked, and not run: what is wrong with the options is no prompt's matter
    while items := source.take(1, wait=True):
        source.taken.clear()
        for item in items:
            try:
                if isinstance(item, LitseqError):
                    raise item
                pieces = generator.stream(item, **options)
            except LitseqError as error:
                if not skips:
                    raise
                skipped, first_error, pieces = skipped + 1, first_error or error, iter(())
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
            sys.stdout.write("\n")
    if source.failure is not None:
        raise source.failure
    _tell_skipped(skipped, first_error)


def _tell_skipped(count: int, first: LitseqError | None) -> None:
    if first is not None:
        print(f"litseq: skipped {count:,} prompts; the first: {first}", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if args.texts and (args.input or args.input_format):
        raise UsageError("both TEXT and --input are given; give the prompts in one place")
    if args.stream and (args.json or args.output):
        raise UsageError("--stream writes plain text to standard output; leave out --json and --output")
    if args.force and not args.output:
        raise UsageError("--force is for --output, which is not given")
    if args.resume and (args.force or not args.output):
        raise UsageError(
            "--resume goes on with an --output, and --force starts it again; give --output and one of them"
        )


@contextmanager
def _open_output(args: argparse.Namespace, made_from: dict[str, Any]) -> Iterator[_Output]:
    """Standard output, a pipe or a device as it is; or a file that is complete at the end, or kept as far as it came."""
    file: Path | None = args.output
    if file is None:
        yield StreamOutput(sys.stdout)
        return
    if file.exists() and not file.is_file() and not file.is_dir():
        if args.resume:
            raise UsageError(f"{file} is a pipe or a device, which cannot be resumed; leave out --resume")
        with file.open("w", encoding="utf-8") as stream:
            yield StreamOutput(stream)
        return
    output = PartialOutput(file, made_from, resume=args.resume, force=args.force)
    try:
        yield output
        output.finish()
    except BaseException as error:
        if not (count := output.stop()):
            raise
        kept = f"{count:,} prompts are kept in {output.path}; go on with --resume"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {kept}") from None
        if isinstance(error, LitseqError):
            raise type(error)(f"{error}; {kept}") from error
        raise


def _estimate(taken: int, share: float | None) -> float | None:
    """How many prompts there will be, by how much of the input those are that were taken."""
    return taken / share if share else None


def _hash(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # opening the bundle says what is wrong with it
        return ""
