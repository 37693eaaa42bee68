"""`litseq chat BUNDLE`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litseq.cli._options import add_options, given_options
from litseq.errors import DataError, LitseqError, UsageError

if TYPE_CHECKING:
    from litseq.runtime import Generator
    from litseq.text import Message

_COMMANDS = {
    "/reset": "begin a new conversation; the system message stays",
    "/undo": "take the last question and its answer back",
    "/system TEXT": "begin a new conversation with this system message; without TEXT, with none",
    "/save FILE": "write the conversation as a line of JSON that a ConversationDataModule reads",
    "/help": "this list",
    "/quit": "end; so does Ctrl-D",
}
_HELP = "\n".join(f"  {name:<14} {text}" for name, text in _COMMANDS.items())
_HINT = "Ctrl-C interrupts an answer. A line that begins with // is a message that begins with /."


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand `chat`."""
    parser = subparsers.add_parser(
        "chat",
        help="talk to a bundle that was trained on conversations",
        description="Talk to a bundle that was trained on conversations. Where standard input is no terminal, each of "
        "its lines is a turn of the user, and each answer a line of standard output.",
        epilog=f"while talking:\n{_HELP}\n\n{_HINT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a directory that `litseq export` wrote")
    parser.add_argument("--system", metavar="TEXT", help="a system message: how the assistant is to be")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one a core)")
    parser.add_argument("--no-verify", action="store_true", help="do not check the hashes of the bundle's files")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk until the user ends it, or answer every line of standard input."""
    from litseq.runtime import Generator

    if sys.stdin is None:
        raise UsageError("standard input is closed; open a terminal, or pipe the questions in")
    generator = Generator.from_bundle(args.bundle, threads=args.threads, verify=not args.no_verify)
    talk = Talk(generator, given_options(args), args.system)
    if sys.stdin.isatty():
        _converse(talk, str(args.bundle))
    else:
        _answer_lines(talk)
    return 0


class Talk:
    """A conversation as far as it has come."""

    def __init__(self, generator: Generator, options: dict[str, Any], system: str | None = None) -> None:
        """Begin a conversation; a bundle or options that cannot be used are noticed now."""
        self.messages: list[Message] = []
        self.dropped = 0
        """Oldest questions that the last prompt had no room for."""
        self._generator = generator
        self._options = options
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Begin anew."""
        from litseq.text import Message

        messages = [Message("system", system)] if system else []
        self._generator.chat_prompt([*messages, Message("user", "?")], **self._options)
        self.messages = messages

    def reset(self) -> None:
        """Begin anew with the same system message."""
        self.messages = [message for message in self.messages if message.role == "system"]

    def undo(self) -> bool:
        """Take the last question and its answer back; False where there is none."""
        if not self.messages or self.messages[-1].role == "system":
            return False
        del self.messages[-2:]
        return True

    def answer(self, text: str) -> Iterator[str]:
        """Ask, and give out the answer in pieces.

        An answer that is interrupted stays in the conversation as far as it has come, and a question without any
        answer does not.
        """
        from litseq.text import Message

        asked = [*self.messages, Message("user", text)]
        self.dropped = self._generator.chat_prompt(asked, **self._options).dropped
        pieces: list[str] = []
        finished = False
        try:
            for piece in self._generator.stream_chat(asked, **self._options):
                pieces.append(piece)
                yield piece
            finished = True
        finally:
            if finished or pieces:
                self.messages = [*asked, Message("assistant", "".join(pieces))]

    def save(self, path: Path) -> None:
        """Write the conversation to a new file.

        Raises:
            UsageError: the file exists or cannot be written.
        """
        line = json.dumps({"messages": [message.to_dict() for message in self.messages]}, ensure_ascii=False)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(line + "\n")
        except FileExistsError:
            raise UsageError(f"{path} exists; choose another name") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None

    def command(self, line: str) -> str | None:
        """Do what a line that begins with / says.

        Returns:
            What to tell the user; None: that is all, leave.

        Raises:
            UsageError: there is no such command, or it cannot be done.
        """
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name == "/quit":
            return None
        if name == "/help":
            return f"{_HELP}\n{_HINT}"
        if name == "/reset":
            self.reset()
            return "a new conversation"
        if name == "/undo":
            return "taken back" if self.undo() else "there is nothing to take back"
        if name == "/system":
            self.begin(rest or None)
            return f"a new conversation, {'with' if rest else 'without'} a system message"
        if name == "/save":
            if not rest:
                raise UsageError("/save needs the name of a file")
            self.save(Path(rest).expanduser())
            return f"written to {rest}"
        raise UsageError(f"{name[:40]} is no command; /help lists them, and // begins a message with /")


def _converse(talk: Talk, name: str) -> None:
    """The dialogue with a person."""
    with suppress(ImportError):  # a Python without it, as on Windows: lines cannot be edited as well, and that is all
        import readline  # noqa: F401  what was typed before comes back with the arrow keys
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    # \1 and \2 tell readline which letters of the prompt take no room.
    prompt = "\1\x1b[1;36m\2you>\1\x1b[0m\2 " if colour else "you> "
    _tell(f"{name}: /help lists the commands, Ctrl-D ends", colour)
    while True:
        try:
            line = input(prompt)
        except KeyboardInterrupt:
            print()
            _tell("Ctrl-D or /quit ends", colour)
            continue
        except EOFError:
            print()
            return
        except UnicodeDecodeError:
            _tell("that is no UTF-8", colour)
            continue
        if not line.strip():
            continue
        try:
            if line.startswith("/") and not line.startswith("//"):
                told = talk.command(line)
                if told is None:
                    return
                _tell(told, colour)
            else:
                _show(talk, line, colour)
        except LitseqError as error:
            _tell(str(error), colour)


def _show(talk: Talk, line: str, colour: bool) -> None:
    """One answer, piece by piece."""
    try:
        for piece in talk.answer(line.removeprefix("/") if line.startswith("//") else line):
            # What a model writes may hold what steers a terminal.
            sys.stdout.write("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in piece))
            sys.stdout.flush()
        print()
    except KeyboardInterrupt:
        print()
        _tell("interrupted", colour)
        return
    if talk.dropped:
        what = "question was" if talk.dropped == 1 else f"{talk.dropped} questions were"
        _tell(f"the conversation is longer than the model reads: the oldest {what} left out", colour)


def _tell(text: str, colour: bool) -> None:
    """Something the program says, and not the model."""
    print(f"\x1b[2m{text}\x1b[0m" if colour else text)


def _answer_lines(talk: Talk) -> None:
    """A turn a line, an answer a line."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            bare = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            line = bare.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input line {number} is no UTF-8 ({error.reason}); convert it to UTF-8") from None
        if not line.strip():
            continue
        if line.startswith("/") and not line.startswith("//"):
            if talk.command(line) is None:
                return
            continue
        answer = "".join(talk.answer(line.removeprefix("/") if line.startswith("//") else line))
        print(" ".join(answer.splitlines()), flush=True)
