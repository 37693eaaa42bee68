import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litseq.errors import DataError, UsageError
from litseq.text import Tokenizer

CORPUS = [
    "The dog runs.",
    "Der Hund läuft über die Straße.",
    "How many?  42 of 1,000!",
    "It's\ta tab,\n\nand lines.",
    "Grüße aus Köln",
] * 20
KINDS = ("bpe", "byte", "char")


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request):
    return Tokenizer.train(CORPUS, vocab_size=400, kind=request.param)


def test_special_tokens_have_the_fixed_ids(tokenizer):
    ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.sep_id)
    assert ids == (0, 1, 2, 3, 4)
    assert [tokenizer.id_to_token(i) for i in range(5)] == ["<pad>", "<bos>", "<eos>", "<unk>", "<sep>"]


@pytest.mark.parametrize("kind", KINDS)
def test_more_special_tokens_follow_the_five(kind):
    tokenizer = Tokenizer.train(CORPUS, vocab_size=400, kind=kind, special_tokens=["<user>", "<assistant>"])
    assert tokenizer.token_to_id("<user>") == 5
    assert tokenizer.token_to_id("<assistant>") == 6
    assert tokenizer.decode([5, *tokenizer.encode("dog"), 6]) == "dog"


def test_encode_adds_nothing_and_decode_gives_the_text_back(tokenizer):
    for text in [*CORPUS[:5], "", " ", "  leading", "trailing  ", "\n", "dog  \n  dog", "läuft"]:
        ids = tokenizer.encode(text)
        assert all(type(i) is int and 5 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.decode(ids) == text


def test_decode_leaves_special_tokens_out(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("The dog"), tokenizer.sep_id, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(ids) == "The dog"


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_cannot_speak_special_tokens(kind):
    # The corpus knows the letters of the words, so that no kind loses any of them.
    tokenizer = Tokenizer.train([*CORPUS, "<eos> <sep> <pad> <bos>"], vocab_size=400, kind=kind)
    ids = tokenizer.encode("a<eos><sep>b")
    assert not set(ids) & {0, 1, 2, 3, 4}
    assert tokenizer.decode(ids) == "a<eos><sep>b"


def test_batch_is_one_by_one(tokenizer):
    texts = [*CORPUS[:7], "", "Köln"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert list(tokenizer.iter_encode(iter(texts), chunk=2)) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_json_and_file_give_the_same_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
    for again in (
        Tokenizer.from_json(tokenizer.to_json()),
        Tokenizer.load(tmp_path / "tokenizer.json"),
        Tokenizer.load(str(tmp_path)),
    ):
        assert again.to_json() == tokenizer.to_json()
        assert again.vocab_size == tokenizer.vocab_size
        assert again.encode("Der Hund <eos> läuft") == tokenizer.encode("Der Hund <eos> läuft")


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_unseen_characters_are_unknown_and_text_is_composed(kind):
    tokenizer = Tokenizer.train(CORPUS, vocab_size=400, kind=kind)
    assert tokenizer.encode("犬") == [tokenizer.unk_id]
    assert tokenizer.decode(tokenizer.encode("dog 犬 dog")) == "dog  dog"
    decomposed = unicodedata.normalize("NFD", "läuft")
    assert tokenizer.decode(tokenizer.encode(decomposed)) == "läuft"


BYTES = Tokenizer.train(CORPUS, vocab_size=300, kind="byte")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_gives_every_text_back_exactly(text):
    assert BYTES.decode(BYTES.encode(text)) == text


def test_byte_with_261_tokens_is_bytes_alone():
    tokenizer = Tokenizer.train(CORPUS, vocab_size=261, kind="byte")
    assert tokenizer.vocab_size == 261
    assert len(tokenizer.encode("Straße 犬")) == len("Straße 犬".encode())


def test_char_is_one_token_a_character_and_keeps_the_most_frequent():
    tokenizer = Tokenizer.train(["aaab", "aac", "ad"], vocab_size=7, kind="char")
    assert tokenizer.vocab_size == 7
    assert [tokenizer.id_to_token(i) for i in (5, 6)] == [
        "a",
        "b",
    ]  # b, c and d are as frequent: the first by code point
    assert tokenizer.encode("abca") == [5, 6, 3, 5]


def test_bpe_never_exceeds_the_vocabulary_even_with_many_characters():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 500)))
    assert Tokenizer.train([text, "dog"], vocab_size=100, kind="bpe").vocab_size == 100


TRAIN_TWICE = """
import hashlib, sys
from litseq.text import Tokenizer
words = [f"wort{i * 7919 % 613} läuft {chr(0x4E00 + i % 300)}" for i in range(3000)]
for kind, size in (("bpe", 500), ("byte", 500), ("char", 100)):
    print(hashlib.sha256(Tokenizer.train(words, size, kind).to_json().encode()).hexdigest())
"""


def test_training_is_deterministic_over_processes_and_threads():
    hashes = set()
    for seed, threads in (("1", "1"), ("2", "2"), ("3", "4")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", TRAIN_TWICE], env=env, capture_output=True, text=True, check=True)
        hashes.add(done.stdout)
    assert len(hashes) == 1
    assert len(set(hashes.pop().split())) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "word"}, "kind 'word' is unknown, expected one of bpe, byte, char"),
        ({"vocab_size": 5}, "vocab_size 5 is too small for kind 'bpe', expected at least 6"),
        ({"vocab_size": 200, "kind": "byte"}, "vocab_size 200 is too small for kind 'byte', expected at least 261"),
        ({"special_tokens": ["<eos>"]}, "must be distinct"),
    ],
)
def test_wrong_training_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.train(CORPUS, **options)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1, 2]",
        b"not json",
        b"\xff\xfe",
        b'{"version": "1.0", "model": {"type": "Strange"}}',
        b'{"bos": ' + b"[" * 3000,
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_clear_line(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_tokenizer_and_a_missing_one_are_one_clear_line(tmp_path):
    document = json.loads(BYTES.to_json())
    document["model"]["merges"].append(["no such", "token"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        Tokenizer.load(tmp_path / "missing.json")
    with pytest.raises(UsageError, match=r"got a Tokenizer; save one that is in memory"):
        Tokenizer.load(BYTES)


def test_importing_the_room_brings_nothing_heavy():
    code = (
        "import sys; sys.modules.update(torch=None, lightning=None, onnx=None); import litseq.text; "
        "assert not {'numpy', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
