"""Conversations from JSON lines, and as examples of token ids."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litseq.data.collate import pad, real_positions
from litseq.data.datasets import Example, SequenceDataset
from litseq.data.lines import BadLines, read_lines
from litseq.data.packing import pack
from litseq.data.ragged import Counts, Ids, Ragged
from litseq.data.sources import Records, Source, field_of, flat_paths, json_records
from litseq.errors import DataError
from litseq.nn.batch import IGNORE_INDEX, DecoderOnlyBatch
from litseq.text import Message
from litseq.text.messages import ASSISTANT, read_messages, read_turns
from litseq.text.rendered import LabelledIds


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation, and where it came from."""

    messages: tuple[Message, ...]
    path: str
    line: int


def read_dialogues(given: Source, field: str | None, bad: BadLines) -> list[Dialogue]:
    """All conversations of JSON lines or rows: texts in turn, or messages with `role` and `content`.

    Args:
        given: Files, or rows of a dataset.
        field: What holds a conversation; None: `messages` or `turns`.
        bad: Takes what cannot be used.
    """
    found = []
    sources: list[tuple[str, Iterable[tuple[int, Any]]]]
    if isinstance(given, Records):
        sources = [(given.name, given.numbered())]
    else:
        sources = [(path, json_records(path, read_lines(path), bad)) for path in flat_paths(given)]
    for where, records in sources:
        for number, record in records:
            try:
                found.append(Dialogue(_messages(record, field), where, number))
            except ValueError as error:
                bad.add(where, number, str(error))
    return found


def _messages(record: Any, field: str | None) -> tuple[Message, ...]:
    if not isinstance(record, dict):
        raise ValueError(f"a JSON {type(record).__name__}, expected an object with 'turns' or 'messages'")
    names = ("turns", "messages") if field is None else (field,)
    # A dataset of both forms has both columns in every row, the other one empty.
    used = next((name for name in names if field_of(record, name) is not None), None)
    if used is None:
        found = ", ".join(map(repr, list(record)[:5])) or "none"
        raise ValueError(f"no field {' or '.join(map(repr, names))}, found {found}")
    value = field_of(record, used)
    if isinstance(value, dict) and all(isinstance(part, list) for part in value.values()):
        # What `datasets` makes of a sequence of objects, by its older rules.
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    in_turn = isinstance(value, list) and bool(value) and isinstance(value[0], str)
    messages = read_turns(value) if in_turn or (used == "turns" and field is None) else read_messages(value)
    empty = [i for i, message in enumerate(messages, 1) if not message.content.strip()]
    if empty:
        raise ValueError(f"message {empty[0]} is empty")
    return messages


def answered(dialogue: Dialogue) -> Dialogue:
    """The conversation up to its last answer.

    Raises:
        ValueError: there is none.
    """
    messages = dialogue.messages if dialogue.messages[-1].role == ASSISTANT else dialogue.messages[:-1]
    if not any(message.role == ASSISTANT for message in messages):
        raise ValueError("the assistant says nothing, so that there is nothing to learn")
    return Dialogue(messages, dialogue.path, dialogue.line)


def asked(dialogue: Dialogue) -> Dialogue:
    """The conversation up to its last question."""
    messages = dialogue.messages[:-1] if dialogue.messages[-1].role == ASSISTANT else dialogue.messages
    return Dialogue(messages, dialogue.path, dialogue.line)


class ConversationDataset(SequenceDataset):
    """(inputs, labels): a conversation, with labels where the assistant speaks."""

    def __init__(self, ids: Ragged, learned: NDArray[np.bool_]) -> None:
        """Take the conversations, and which of all their tokens are learned."""
        self.ids = ids
        self.learned = learned
        self.lengths = (ids.lengths - 1)[:, None]

    def __getitem__(self, index: int) -> Example:
        return _aligned(self.ids.flat, self.learned, int(self.ids.offsets[index]), int(self.lengths[index, 0]))


class PackedConversations(SequenceDataset):
    """(inputs, labels, segments): a block of whole conversations that do not see each other."""

    def __init__(self, conversations: ConversationDataset, size: int) -> None:
        """Put conversations into few blocks of `size` positions; none is cut."""
        self.conversations = conversations
        self._pieces: Counts
        self._pieces, self._bounds = pack(conversations.lengths[:, 0], size)
        self.lengths = np.full((len(self._bounds) - 1, 1), size, dtype=np.int64)

    @property
    def token_counts(self) -> Counts:
        """Positions that hold a token, the rest of a block not counted."""
        counts: Counts = np.add.reduceat(self.conversations.lengths[self._pieces, 0], self._bounds[:-1])
        return counts

    def __getitem__(self, index: int) -> Example:
        pieces = self._pieces[self._bounds[index] : self._bounds[index + 1]]
        rows = [self.conversations[piece] for piece in pieces.tolist()]
        segments = np.repeat(np.arange(1, len(rows) + 1, dtype=np.int32), self.conversations.lengths[pieces, 0])
        return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows]), segments


@dataclass(frozen=True)
class CollateConversations:
    """(inputs, labels) -> padded rows."""

    pad_id: int

    def __call__(self, examples: Sequence[tuple[Ids, Ids]]) -> DecoderOnlyBatch:
        """Pad the examples into one batch."""
        inputs = [row for row, _ in examples]
        return {
            "input_ids": pad(inputs, self.pad_id),
            "labels": pad([labels for _, labels in examples], IGNORE_INDEX),
            "attention_mask": real_positions(inputs),
        }


@dataclass
class Cuts:
    """What was cut from conversations that are too long, and which were left out."""

    examples: int = 0
    """Examples without some of their oldest turns."""
    exchanges: int = 0
    """Oldest questions, each with its answer, that were dropped from them."""
    left_out: int = 0
    """Examples whose newest question and answer alone are too long."""
    kept: list[int] = field(default_factory=list)
    """The examples that are left, by their numbers."""

    def note(self, index: int, dropped: int) -> None:
        """Count an example that is kept."""
        self.kept.append(index)
        self.examples += dropped > 0
        self.exchanges += dropped


def join_labelled(conversations: Iterator[LabelledIds]) -> ConversationDataset:
    """Conversations one after the other, holding none of them as lists."""
    spans: list[tuple[int, int]] = []

    def ids() -> Iterator[list[int]]:
        start = 0
        for conversation in conversations:
            spans.extend((start + begin, start + end) for begin, end in conversation.spans)
            start += len(conversation)
            yield conversation.ids

    joined = Ragged.from_lists(ids())
    learned = np.zeros(len(joined.flat), dtype=bool)
    for begin, end in spans:
        learned[begin:end] = True
    return ConversationDataset(joined, learned)


def locate(error: ValueError, dialogue: Dialogue) -> DataError:
    """What a template says of a conversation, with the place of that in its file."""
    return DataError(f"{dialogue.path} line {dialogue.line}: {error}")


def _aligned(flat: Ids, learned: NDArray[np.bool_], start: int, length: int) -> tuple[Ids, Ids]:
    following = slice(start + 1, start + 1 + length)
    return flat[start : start + length], np.where(learned[following], flat[following], np.int32(IGNORE_INDEX))
