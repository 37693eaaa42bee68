"""`litseq chat` over a committed bundle that gets a chat template here."""

import io
import json
import os
import pty
import re
import select
import signal
import sys

import pytest

from litseq.cli import chat
from litseq.cli import main as cli
from litseq.errors import UsageError
from litseq.runtime import Generator
from litseq.text import Message
from runtime.test_chat import chatbot

FAST = ("--threads", "1", "--max-new-tokens", "6")
OPTIONS = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return chatbot(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.from_bundle(bundle, threads=1)


def answers(generator, *questions, system=None):
    """What is to be said, one question after the other."""
    messages = [Message("system", system)] if system else []
    for question in questions:
        messages.append(Message("user", question))
        messages.append(Message("assistant", generator.chat(messages, **OPTIONS).text))
    return [message.content for message in messages if message.role == "assistant"]


def run(capsys, monkeypatch, bundle, content, *arguments):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    code = cli.main(["chat", str(bundle), *FAST, *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_line(text):
    return " ".join(text.splitlines()) + "\n"


def test_a_turn_a_line(capsys, monkeypatch, bundle, generator):
    code, out, err = run(capsys, monkeypatch, bundle, "hello\n\ngröße?\r\nlast".encode())
    assert (code, err) == (0, "")
    assert out == "".join(map(one_line, answers(generator, "hello", "größe?", "last")))


@pytest.mark.parametrize("content", ["/system be kind\nhello\n", "hello\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(capsys, monkeypatch, bundle, content):
    plain = run(capsys, monkeypatch, bundle, content.encode())
    assert plain[0] == 0
    assert run(capsys, monkeypatch, bundle, content.encode("utf-8-sig")) == plain


def test_commands_in_lines(capsys, monkeypatch, bundle, generator, tmp_path):
    saved = tmp_path / "talk.jsonl"
    lines = f"a\n/reset\nb\nc\n/undo\n//d\n/save {saved}\n/system be kind\ne\n/quit\nnever"
    code, out, err = run(capsys, monkeypatch, bundle, lines.encode(), "--system", "first")
    assert (code, err) == (0, "")
    wanted = answers(generator, "a", system="first") + answers(generator, "b", "c", system="first")
    talk = answers(generator, "b", "/d", system="first")
    assert out == "".join(map(one_line, [*wanted, talk[1], *answers(generator, "e", system="be kind")]))
    record = json.loads(saved.read_text())
    assert [m["content"] for m in record["messages"]] == ["first", "b", talk[0], "/d", talk[1]]
    assert [m["role"] for m in record["messages"]] == ["system", "user", "assistant", "user", "assistant"]


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"a\n\xff\n", (), "standard input line 2 is no UTF-8"),
        (b"/fly\n", (), "/fly is no command; /help lists them"),
        (b"/save\n", (), "/save needs the name of a file"),
        (b"/save /nowhere/a\n", (), "/nowhere/a cannot be written: No such file"),
        (b"/save /tmp\n", (), "/tmp exists; choose another name"),
        (b"x" * 99, (), "the last message alone is over the 64 tokens"),
        (b"", ("--top-p", "3"), "top_p is 3.0"),
        (b"", ("--system", "x" * 99), "the last message alone is over the 64 tokens"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, bundle, content, arguments, words):
    code, _, err = run(capsys, monkeypatch, bundle, content, *arguments)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_no_standard_input_at_all(capsys, monkeypatch, bundle):
    monkeypatch.setattr("sys.stdin", None)
    assert cli.main(["chat", str(bundle)]) == 2
    assert "standard input is closed" in capsys.readouterr().err


def test_a_bundle_that_is_no_chatbot(capsys, monkeypatch):
    from runtime.fixtures import fixture_path

    code, out, err = run(capsys, monkeypatch, fixture_path("tiny-decoder-only"), b"a\n")
    assert (code, out) == (2, "")
    assert "no chat template" in err


class Slow:
    """A generator whose answers are interrupted."""

    def __init__(self, pieces):
        self.pieces = pieces

    def chat_prompt(self, messages, **options):
        return type("Prompt", (), {"dropped": 2})

    def stream_chat(self, messages, **options):
        yield from self.pieces
        raise KeyboardInterrupt


def converse(monkeypatch, capsys, talk, lines):
    """What a person at the terminal sees."""
    script = iter(lines)

    def answer(prompt):
        line = next(script, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", answer)
    chat._converse(talk, "bundle")
    return capsys.readouterr().out


def test_ctrl_c_interrupts_the_answer_and_keeps_the_chat(monkeypatch, capsys):
    talk = chat.Talk(Slow(["par", "tial\x1b[2J"]), {})
    out = converse(monkeypatch, capsys, talk, ["hello", KeyboardInterrupt, "/undo", "/undo", "/help", "/fly"])
    lines = out.splitlines()
    assert lines[1:6] == ["partial\ufffd[2J", "interrupted", "", "Ctrl-D or /quit ends", "taken back"]
    assert lines[6] == "there is nothing to take back"
    assert "/save FILE" in out
    assert "/fly is no command" in lines[-2]
    talk = chat.Talk(Slow([]), {}, "be kind")
    converse(monkeypatch, capsys, talk, ["hello"])
    assert [message.role for message in talk.messages] == ["system"]


def test_what_is_left_out_is_said(monkeypatch, capsys):
    slow = Slow(["fine"])
    monkeypatch.setattr(slow, "stream_chat", lambda messages, **options: iter(slow.pieces))
    out = converse(monkeypatch, capsys, chat.Talk(slow, {}), ["hello", "/quit", "never"])
    assert out.splitlines()[1:] == [
        "fine",
        "the conversation is longer than the model reads: the oldest 2 questions were left out",
    ]


def test_a_saved_conversation_is_not_replaced(tmp_path, generator):
    talk = chat.Talk(generator, OPTIONS)
    list(talk.answer("hello"))
    talk.save(tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="exists"):
        talk.save(tmp_path / "a.jsonl")


def test_in_a_terminal(bundle, generator, start):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "litseq", "chat", str(bundle), *FAST]
    process = start(
        command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, env=os.environ | {"NO_COLOR": "1"}
    )
    os.close(theirs)
    seen = b""

    def wait_for(words):
        nonlocal seen
        while words not in seen:
            assert select.select([ours], [], [], 60)[0], f"{words} did not come; so far {seen}"
            seen += os.read(ours, 4096)
        seen = seen[seen.index(words) + len(words) :]

    wait_for(b"you> ")
    os.write(ours, b"hello\n")
    wait_for(b"hello\r\n")
    wait_for(b"you> ")
    # A signal between the prompt and the wait for a key is noticed with the next key only: hence again, until it is seen.
    process.send_signal(signal.SIGINT)
    while not select.select([ours], [], [], 2)[0]:
        process.send_signal(signal.SIGINT)
    wait_for(b"Ctrl-D or /quit ends\r\n")
    wait_for(b"you> ")
    os.write(ours, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(ours)


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit):
        cli.main(["chat", "--help"])
    assert re.search(r"/undo +take the last question", capsys.readouterr().out)
