"""`Tokenizer`: text to lists of token ids and back."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from litseq.errors import DataError, UsageError
from litseq.text.special_text import SpecialToken
from litseq.text.special_tokens import SpecialTokens, find_special_tokens, state_tokens
from litseq.text.streaming import StreamDecoder
from litseq.text.training import train_backend

_MANY_TEXTS = 16


class Tokenizer:
    """Text to token ids and back, over a `tokenizer.json` of the `tokenizers` package.

    Make one with `train`, `load` or `from_json`. Encoding never adds special tokens and never reads them out of a text:
    the words `<eos>` in a user's text are ordinary characters. Special tokens come from a `PromptFormat`, from
    `token_to_id`, or from the ids given here.
    """

    def __init__(self, document: str, backend: tokenizers.Tokenizer, special: SpecialTokens) -> None:
        # Kept as it was read: the backend below forgets the truncation and padding another program may rely on.
        self._json = document
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "special tokens in a text are text"
        self._backend = backend
        self._reading: tokenizers.Tokenizer | None = None
        self._special = special
        self._control = frozenset({special.pad, special.bos, special.eos})
        # Not the number of tokens: a foreign vocabulary may have gaps, and an id must index an embedding.
        self._vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 8000, kind: str = "bpe", special_tokens: Sequence[str] = ()
    ) -> "Tokenizer":
        """Train on texts; deterministic.

        Args:
            texts: The corpus.
            vocab_size: Tokens at most, the special ones included.
            kind: `bpe` (characters merged), `byte` (bytes merged; any text comes back exactly) or `char`.
            special_tokens: More special tokens, behind `<pad> <bos> <eos> <unk> <sep>` which have the ids 0 to 4.
        """
        return cls._from_document(train_backend(texts, vocab_size, kind, special_tokens).to_str(), {}, "tokenizer")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        unk: str | None = None,
        sep: str | None = None,
    ) -> "Tokenizer":
        """Read a `tokenizer.json`, ours or another's, from the file or from the directory that holds it.

        Args:
            path: The file, or a directory with a `tokenizer.json`.
            bos: The token that begins a sequence. These five are found by what the file states and by common names
                (`<s>`, `[BOS]`, `<|endoftext|>`, ...); give those that are called otherwise.
            eos: The token that ends a sequence.
            pad: The padding token (default: the end token when the vocabulary has none).
            unk: The token of what the vocabulary cannot express.
            sep: The token between a source and its target.
        """
        if not isinstance(path, str | os.PathLike):
            raise UsageError(
                f"a tokenizer is loaded from a file or a directory, got a {type(path).__name__}; save one that is in memory"
                " with save() and give its path"
            )
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise DataError(f"{file}: cannot read the tokenizer ({reason}), expected a tokenizer.json") from None
        return cls._from_document(text, {"bos": bos, "eos": eos, "pad": pad, "unk": unk, "sep": sep}, str(file))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """The tokenizer that `to_json` wrote."""
        return cls._from_document(text, {}, "tokenizer")

    @classmethod
    def _from_document(cls, text: str, explicit: dict[str, str | None], where: str) -> "Tokenizer":
        try:
            document: Any = json.loads(text)
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the package raises nothing more exact
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(f"{where}: not a tokenizer.json of the `tokenizers` package ({reason})") from None
        vocabulary = backend.get_vocab(with_added_tokens=True)
        special = find_special_tokens(vocabulary, document, explicit, where)
        if any(token is not None for token in explicit.values()):
            names = {index: token for token, index in vocabulary.items()}
            state_tokens(document, special, names)
            text = json.dumps(document, ensure_ascii=False)
            backend = tokenizers.Tokenizer.from_str(text)
        return cls(text, backend, special)

    def to_json(self) -> str:
        """The whole tokenizer as the text of a `tokenizer.json`."""
        return self._json

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `tokenizer.json`; written beside and renamed, so an interrupted write leaves the old file."""
        target = Path(path)
        beside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(self.to_json(), encoding="utf-8")
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all processors; few are not worth the threads that it would start."""
        return list(self.iter_encode(texts)) if len(texts) >= _MANY_TEXTS else [self.encode(text) for text in texts]

    def iter_encode(self, texts: Iterable[str], chunk: int = 8192) -> Iterator[list[int]]:
        """`encode` for texts without end, holding the ids of `chunk` texts at a time."""
        block: list[str] = []
        for text in texts:
            block.append(text)
            if len(block) == chunk:
                yield from (item.ids for item in self._backend.encode_batch_fast(block, add_special_tokens=False))
                block = []
        yield from (item.ids for item in self._backend.encode_batch_fast(block, add_special_tokens=False))

    def encode_with_offsets(self, text: str) -> tokenizers.Encoding:
        """`encode`, with the place of every token in the text."""
        return self._backend.encode(text, add_special_tokens=False)

    def encode_rendered(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Texts in which the words of special tokens are those tokens, with the places of all tokens.

        For what a `ChatTemplate` renders, which has hidden them where they are a user's words, and for nothing else.
        """
        if self._reading is None:
            reading = tokenizers.Tokenizer.from_str(self._json)
            reading.no_truncation()
            reading.no_padding()
            reading.encode_special_tokens = False
            self._reading = reading
        encodings: list[tokenizers.Encoding] = self._reading.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; special tokens are left out."""
        kept = [index for index in ids if index not in self._control]
        text: str = self._backend.decode(kept, skip_special_tokens=True)
        return text

    def count_bytes(self, ids: Sequence[int]) -> int:
        """The UTF-8 bytes of the text of ids; of a character that is cut in two, those that are there."""
        text = self.decode(ids)
        if "\ufffd" in text and self._spells_bytes:
            special = {token.id for token in self.special_tokens}
            return sum(len(self.id_to_token(index) or "") for index in ids if index not in special)
        return len(text.encode())

    def stream(self) -> StreamDecoder:
        """A decoder for one sequence that takes an id at a time; its pieces together are `decode` of all ids."""
        return StreamDecoder(self.decode, self.token_to_id("<0xFF>"))

    def token_to_id(self, token: str) -> int | None:
        """The id of a token by its name, special tokens included; None when the vocabulary lacks it."""
        index: int | None = self._backend.token_to_id(token)
        return index

    def id_to_token(self, index: int) -> str | None:
        """The name of a token as the vocabulary spells it (bytes are spelled as letters); None for an unused id."""
        token: str | None = self._backend.id_to_token(index)
        return token

    @property
    def vocab_size(self) -> int:
        """One more than the greatest id: the rows an embedding needs."""
        return self._vocab_size

    @property
    def special_tokens(self) -> list[SpecialToken]:
        """All special tokens by their ids, those of no role too."""
        added = sorted(self._backend.get_added_tokens_decoder().items())
        return [SpecialToken(i, token.content, token.lstrip, token.rstrip) for i, token in added if token.special]

    @property
    def pad_id(self) -> int:
        """The padding token; the end token where the vocabulary has no padding."""
        return self._special.pad

    @property
    def bos_id(self) -> int:
        """The token that begins a sequence; the end token where the vocabulary has none."""
        return self._special.bos

    @property
    def eos_id(self) -> int:
        """The token that ends a sequence."""
        return self._special.eos

    @property
    def unk_id(self) -> int | None:
        """The token of what the vocabulary cannot express, if there is one."""
        return self._special.unk

    @property
    def sep_id(self) -> int | None:
        """The token between a source and its target, if there is one."""
        return self._special.sep

    @property
    def _spells_bytes(self) -> bool:
        """Whether every letter of a token's name stands for a byte."""
        return (json.loads(self._json).get("decoder") or {}).get("type") == "ByteLevel"

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, special={self._special})"
