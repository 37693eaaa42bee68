import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from litseq.text import Tokenizer

TEXT = "Grüße, 犬 👋🏽 and 👩‍👩‍👧!  Two spaces\n\nand é."
BYTES = Tokenizer.train([TEXT], vocab_size=261, kind="byte")
SUBWORDS = Tokenizer.train([TEXT, "Two and and spaces"] * 5, vocab_size=300, kind="byte")
LEARNED = Tokenizer.train([TEXT] * 5, vocab_size=90, kind="bpe")


def metaspace():
    """A tokenizer whose text of a token depends on whether it comes first, with bytes for unknown characters."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "▁b"]
    backend = tokenizers.Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [("▁", "a"), ("▁", "b")], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer.from_json(backend.to_str())


METASPACE = metaspace()


def wordpiece():
    words = ["[UNK]", "[CLS]", "[SEP]", "dog", "run", "##s", "."]
    backend = tokenizers.Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return Tokenizer.from_json(backend.to_str())


def pieces(tokenizer, ids):
    stream = tokenizer.stream()
    return [*(stream.push(index) for index in ids), stream.flush()]


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (BYTES, TEXT),
        (SUBWORDS, TEXT),
        (LEARNED, TEXT),
        (METASPACE, "a b ab  é 犬 a"),
        (wordpiece(), "dog runs."),
    ],
)
def test_pieces_together_are_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    given_out = pieces(tokenizer, ids)
    assert "".join(given_out) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in given_out)


def test_a_character_comes_with_the_last_of_its_bytes():
    given_out = pieces(BYTES, BYTES.encode("a犬👋"))
    assert given_out == ["a", "", "", "犬", "", "", "", "👋", ""]


def test_special_tokens_come_as_nothing_and_hold_nothing_back():
    dog = BYTES.encode("do")
    assert pieces(BYTES, [BYTES.bos_id, dog[0], BYTES.sep_id, dog[1], BYTES.eos_id]) == ["", "d", "", "o", "", ""]


def test_an_unfinished_character_comes_with_flush():
    ids = BYTES.encode("a犬")[:-1]
    assert pieces(BYTES, ids) == ["a", "", "", "\ufffd"]


def test_nothing_in_nothing_out():
    assert pieces(BYTES, []) == [""]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 260), max_size=30))
def test_any_bytes_valid_or_not_add_up(ids):
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SUBWORDS.encode(TEXT)), max_size=30))
def test_any_subwords_add_up(ids):
    assert "".join(pieces(SUBWORDS, ids)) == SUBWORDS.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0, 1, *METASPACE.encode("é犬"), 3 + 0xFF, *METASPACE.encode(" a b")]), max_size=12))
def test_bytes_of_a_vocabulary_of_words_add_up(ids):
    # With a wrong byte in a run, `decode` shows all of the run as U+FFFD, characters that were whole as well.
    assert "".join(pieces(METASPACE, ids)) == METASPACE.decode(ids)


def test_a_long_stream_stays_cheap():
    calls = []
    stream = SUBWORDS.stream()
    decode = stream._decode
    stream._decode = lambda ids: calls.append(len(ids)) or decode(ids)
    for index in SUBWORDS.encode(TEXT) * 50:
        stream.push(index)
    assert max(calls) < 20  # the text of all ids is never decoded again
