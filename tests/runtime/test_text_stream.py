import random

import pytest

from litseq.runtime.text_stream import TextStream
from runtime.tiny_bundles import tiny_tokenizer


class Letters:
    """A decoder that gives every id's letter at once."""

    def push(self, token):
        return chr(token)

    def flush(self):
        return ""


def feed(text, stop):
    stream = TextStream(Letters(), stop)
    pieces = []
    for letter in text:
        ended = stream.push(ord(letter))
        pieces.append(stream.pop())
        if ended:
            break
    stream.flush()
    return [*pieces, stream.pop()], stream.stopped


@pytest.mark.parametrize(
    ("text", "stop", "wanted", "stopped"),
    [
        ("hello world", (), "hello world", False),
        ("hello world", (" w",), "hello", True),
        ("hello world", ("x", "lo"), "hel", True),
        ("aaab", ("aab",), "a", True),
        ("abcabd", ("abd",), "abc", True),
        ("ab", ("abc",), "ab", False),
        ("stop", ("stop",), "", True),
        ("a\n\nb", ("\n\n",), "a", True),
        ("größe", ("ö",), "gr", True),
    ],
)
def test_text_ends_before_the_first_stop_string(text, stop, wanted, stopped):
    pieces, found = feed(text, stop)
    assert "".join(pieces) == wanted
    assert found is stopped


def test_nothing_is_given_out_that_is_cut_later():
    random.seed(0)
    for _ in range(300):
        text = "".join(random.choices("abc", k=12))
        stop = tuple("".join(random.choices("abc", k=random.randint(1, 4))) for _ in range(2))
        pieces, stopped = feed(text, stop)
        so_far = ""
        for piece in pieces:
            so_far += piece
            assert text.startswith(so_far)
            assert not any(s in so_far for s in stop)
        ends = [text.find(s) + len(s) for s in stop if s in text]
        assert stopped == bool(ends)
        if not ends:
            assert so_far == text


def test_text_is_given_out_as_soon_as_it_is_certain():
    pieces, _ = feed("xxab", ("yy",))
    assert pieces[:4] == ["x", "x", "a", "b"]
    pieces, _ = feed("xay", ("ab",))
    assert pieces[:3] == ["x", "", "ay"]


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_pieces_are_whole_characters_and_together_the_decoded_text(kind):
    tokenizer = tiny_tokenizer(kind)
    text = "größe — 你好 🙂🙂 the fox"
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer.stream())
    pieces = []
    for token in ids:
        assert not stream.push(token)
        pieces.append(stream.pop())
    stream.flush()
    pieces.append(stream.pop())
    assert "".join(pieces) == tokenizer.decode(ids)
    if kind == "byte":
        assert "\ufffd" not in "".join(pieces)


def test_an_output_cut_inside_a_character_keeps_what_decode_gives():
    tokenizer = tiny_tokenizer("byte")
    ids = tokenizer.encode("a🙂")
    for n in range(len(ids) + 1):
        stream = TextStream(tokenizer.stream())
        for token in ids[:n]:
            stream.push(token)
        stream.flush()
        assert stream.pop() == tokenizer.decode(ids[:n])
