"""The sequences a quantised model is calibrated and measured on: a user's, or what the model writes itself."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from litseq.bundle import Manifest
from litseq.errors import DataError, UsageError
from litseq.quantize.runner import Row
from litseq.runtime import Generator
from litseq.runtime.chat import ChatReader
from litseq.runtime.prompts import PromptReader
from litseq.text import Message
from litseq.text.messages import ASSISTANT, read_messages, read_turns

ROW_TOKENS = 256
"""A row is read in one call, so its activations must fit."""
SELF_ROWS = 48
SEED = 0


@dataclass(frozen=True)
class Text:
    """A text, a source and its target, or an answer of a conversation."""

    source: str | None
    target: str
    asked: tuple[Message, ...] = ()
    """What was said before an answer."""


def read_texts(path: Path, pairs: bool, chat: bool = False) -> list[Text]:
    """The texts of a UTF-8 file, plain or gzip'd; empty lines are left out.

    A line is a text, or a source, a tab and a target. In a `.jsonl` or `.ndjson` file it is an object with `text`, with
    `source` and `target`, or with a conversation, whose answers are taken one by one.

    Args:
        path: The file.
        pairs: The model reads pairs, or conversations.
        chat: The model has been trained on conversations.

    Raises:
        DataError: the file cannot be read, is empty, or a line is not what the model reads.
    """
    try:
        content = path.read_bytes()
        name = path.name.lower()
        if name.endswith(".gz"):
            content, name = gzip.decompress(content), name.removesuffix(".gz")
        lines = content.decode("utf-8-sig").split("\n")  # some editors begin a file with a byte order mark
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot be read ({reason}), expected UTF-8 texts, one a line") from None
    texts: list[Text] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if name.endswith((".jsonl", ".ndjson")):
                texts += _from_json(line, pairs, chat)
            else:
                texts.append(_from_columns(line, pairs))
        except ValueError as error:
            raise DataError(f"{path} line {number}: {error}") from None
    if not texts:
        raise DataError(f"{path}: no text in it, expected at least one line")
    return texts


def _from_columns(line: str, pairs: bool) -> Text:
    parts = line.rstrip("\r").split("\t")
    if pairs and len(parts) != 2:
        raise ValueError(f"{len(parts)} columns, expected source, tab and target for an encoder-decoder")
    return Text(parts[0], parts[1]) if len(parts) == 2 else Text(None, parts[0] if len(parts) == 1 else line)


def _from_json(line: str, pairs: bool, chat: bool) -> Iterator[Text]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error}), expected an object a line") from None
    record = record if isinstance(record, dict) else {}
    given = record.get("turns") or record.get("messages")
    if given is not None and chat:
        in_turn = isinstance(given, list) and isinstance(given[0], str)
        messages = read_turns(given) if in_turn else read_messages(given)
        for i, message in enumerate(messages):
            if message.role == ASSISTANT:
                yield Text(None, message.content, messages[:i])
    elif isinstance(record.get("source"), str) and isinstance(record.get("target"), str):
        yield Text(record["source"], record["target"])
    elif isinstance(record.get("text"), str) and not pairs:
        yield Text(None, record["text"])
    else:
        wanted = ("'source' and 'target'" if pairs else "'text', or 'source' and 'target'") + (
            ", or 'messages' or 'turns'" if chat else ""
        )
        found = ", ".join(map(repr, list(record)[:5])) or "no object with fields"
        trained = "" if given is None else ": the model was not trained on conversations"
        raise ValueError(f"{found}, expected texts as {wanted}{trained}")


class Sampler:
    """Makes rows for a model."""

    def __init__(self, manifest: Manifest, generator: Generator) -> None:
        self.manifest = manifest
        self.generator = generator
        self.seed = SEED
        """Of the texts that the model writes; another one gives others."""
        self._reader = PromptReader(manifest, generator.tokenizer)
        self._chat = ChatReader(manifest, generator.tokenizer).format
        self._frame = [int(i) for i in manifest.prompt_format.get("prefix_ids", ())]  # type: ignore[attr-defined]  # a list of ids, as it was read
        self._longest = min(ROW_TOKENS, manifest.model.max_seq_len)

    def rows(self, texts: list[Text], most_tokens: int, *, others: bool = False) -> list[Row]:
        """Rows of texts chosen evenly from all of them, `most_tokens` in all; always the same, whatever was asked before.

        `others` chooses from the other end: other rows, where there are enough.
        """
        order = np.random.default_rng(SEED).permutation(len(texts))
        found, total = [], 0
        for i in reversed(order) if others else order:
            row = self._row(texts[int(i)])
            if len(row.tokens) < 2:
                continue
            found.append(row)
            total += len(row.tokens)
            if total >= most_tokens:
                break
        if not found:
            raise DataError(
                f"none of {len(texts)} texts has two tokens or more, so that one could follow; give longer ones"
            )
        return found

    def can_read(self, text: Text) -> bool:
        """Whether it has a source, and one that the model takes whole."""
        try:
            return text.source is not None and self._reader.read(text.source) is not None
        except UsageError:  # too long for the model
            return False

    def own_rows(self, count: int = SELF_ROWS, longest: int = ROW_TOKENS) -> list[Row]:
        """What the model writes when it may choose every token by its probability.

        An encoder-decoder is given random tokens to read, which it has not been trained for: texts are better.
        """
        generator = np.random.default_rng(self.seed)
        vocab = self.manifest.model.vocab_size
        if self.manifest.encoder is None:
            prompts = [self._start(generator, vocab) for _ in range(count)]
        else:
            most = max(2, min(24, self._longest - 1))
            prompts = [generator.integers(0, vocab, generator.integers(1, most)).tolist() for _ in range(count)]
        room = min(longest, self._longest) - max(len(p) for p in prompts)
        written: list[list[int]] = [[] for _ in prompts]
        if room > 0:
            done = self.generator.generate(prompts, max_new_tokens=room, temperature=1.0, seed=self.seed)
            written = [list(completion.token_ids) for completion in done]
        rows = []
        for prompt, ids in zip(prompts, written, strict=True):
            read = self._reader.read(prompt)
            tokens = (*read.ids, *ids)[: self._longest]
            rows.append(Row(_tuple(read.source), tokens, min(len(read.ids), len(tokens))))
        return [row for row in rows if len(row.tokens) > 1] or rows

    def _start(self, generator: np.random.Generator, vocab: int) -> list[int]:
        """The beginning of a text: what the format puts there, and a token so that no two rows are alike."""
        return [*self._frame, int(generator.integers(0, vocab))]

    def _row(self, text: Text) -> Row:
        ids = self.generator.tokenizer.encode(text.target)
        if text.asked:
            return self._answer(text.asked, ids)
        if self.manifest.encoder is None and text.source is None:
            tokens = (*self._frame, *ids)[: self._longest]
            return Row(None, tokens, min(max(1, len(self._frame)), len(tokens)))
        source = self.generator.tokenizer.encode(text.source or " ")[: self._longest - 8]
        prompt = self._reader.read(text.source or " ") if len(source) < self._longest - 8 else self._reader.read(source)
        tokens = (*prompt.ids, *ids, self.generator.tokenizer.eos_id)[: self._longest]
        return Row(_tuple(prompt.source), tokens, min(len(prompt.ids), len(tokens)))

    def _answer(self, asked: tuple[Message, ...], ids: list[int]) -> Row:
        """An answer behind what the model is given to read, the oldest turns left out as in training; empty where it cannot."""
        assert self._chat is not None
        answer = [*ids, self._chat.stop_ids[0]][: self._longest // 2]
        room = self._longest - (len(answer) if self.manifest.encoder is None else 0)
        try:
            (fitted,) = self._chat.prompts([asked], [room])
        except ValueError as error:
            raise DataError(f"the chat template of the model refuses a conversation: {error}") from None
        if fitted.encoded is None:
            return Row(None, ())
        prompt = self._reader.read(fitted.encoded)
        return Row(_tuple(prompt.source), (*prompt.ids, *answer)[: self._longest], len(prompt.ids))


def _tuple(ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)
