"""Training a tokenizer from texts: three kinds, all of which give the text back with its spaces."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from litseq.text.special_tokens import SPECIAL_TOKENS, UNK

# One word with the space before it, one digit, one run of punctuation, or white space. The space stays inside the token
# as a plain space, so decoding is concatenation and nothing about spacing is guessed.
_WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s"


def train_backend(
    texts: Iterable[str], vocab_size: int, kind: str, special_tokens: Sequence[str]
) -> tokenizers.Tokenizer:
    """Train a tokenizer; the same texts in the same order give the same tokenizer, whatever the machine.

    Args:
        texts: The corpus, any number of texts of any length.
        vocab_size: Tokens at most, special ones included. A small corpus gives fewer.
        kind: `bpe` merges characters (a character unseen in training is `<unk>`; text is put in the normal form NFC).
            `byte` merges bytes: every text has ids and comes back exactly; 261 tokens (with five special ones) are the
            bytes alone. `char` has one token a character.
        special_tokens: More special tokens, behind `<pad> <bos> <eos> <unk> <sep>`.
    """
    trainer = _KINDS.get(kind)
    if trainer is None:
        raise ValueError(f"tokenizer kind {kind!r} is unknown, expected one of {', '.join(_KINDS)}")
    specials = [*SPECIAL_TOKENS, *special_tokens]
    if len(set(specials)) != len(specials) or "" in specials:
        raise ValueError(f"special tokens {specials} must be distinct and not empty")
    smallest = len(specials) + (256 if kind == "byte" else 1)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size {vocab_size} is too small for kind {kind!r}, expected at least {smallest}")
    return trainer(texts, vocab_size, specials)


def _train_bpe(texts: Iterable[str], vocab_size: int, specials: list[str]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE(unk_token=UNK))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    backend.decoder = decoders.Fuse()
    texts = list(texts)
    # The trainer drops rare characters in the order of a hash map; choosing them here keeps training deterministic.
    alphabet = _common_characters(texts, vocab_size - len(specials))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_byte(texts: Iterable[str], vocab_size: int, specials: list[str]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_char(texts: Iterable[str], vocab_size: int, specials: list[str]) -> tokenizers.Tokenizer:
    characters = _common_characters(texts, vocab_size - len(specials))
    vocabulary = {token: index for index, token in enumerate([*specials, *characters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return backend


def _common_characters(texts: Iterable[str], limit: int) -> list[str]:
    """The most frequent characters after normalisation, equal counts by code point, sorted by code point."""
    normalise = normalizers.NFC().normalize_str
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text if text.isascii() else normalise(text))
    common = sorted(counts, key=lambda character: (-counts[character], character))[:limit]
    return sorted(common)


_KINDS: dict[str, Callable[[Iterable[str], int, list[str]], tokenizers.Tokenizer]] = {
    "bpe": _train_bpe,
    "byte": _train_byte,
    "char": _train_char,
}
