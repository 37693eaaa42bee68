"""`Message`: one turn of a conversation, and what a conversation may look like."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

Role = Literal["system", "user", "assistant"]

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str

    def to_dict(self) -> dict[str, str]:
        """The form that JSON files, chat templates and HTTP interfaces share."""
        return {"role": self.role, "content": self.content}


MessageLike = Message | Mapping[str, object]
"""A `Message`, or an object with `role` and `content`."""


def read_messages(values: object) -> tuple[Message, ...]:
    """A conversation: one system message or none, then user and assistant in turn, the user first.

    Args:
        values: A list of messages.

    Raises:
        ValueError: saying which message is not what it should be.
    """
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise ValueError(f"a conversation is of type {type(values).__name__}, expected a list of messages")
    messages = tuple(_message(value, f"message {i}") for i, value in enumerate(values, 1))
    turns = messages[1:] if messages and messages[0].role == SYSTEM else messages
    if not turns:
        raise ValueError("the conversation has no message of a user")
    for i, (message, expected) in enumerate(zip(turns, _alternating(), strict=False), 1 + len(messages) - len(turns)):
        if message.role != expected:
            where = "only the first may be the system's; " if message.role == SYSTEM else ""
            raise ValueError(f"message {i} is by the {message.role}, {where}expected the {expected}")
    return messages


def read_turns(values: object) -> tuple[Message, ...]:
    """A conversation from its texts alone, which alternate from the user.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"turns is of type {type(values).__name__}, expected a list of texts")
    return read_messages([{"role": role, "content": text} for text, role in zip(values, _alternating(), strict=False)])


def split_system(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message, if there is one, and the turns."""
    count = 1 if messages and messages[0].role == SYSTEM else 0
    return tuple(messages[:count]), tuple(messages[count:])


def drop_oldest(messages: Sequence[Message], count: int) -> tuple[Message, ...]:
    """The conversation without its `count` oldest questions and the answers to them, the system message kept."""
    system, turns = split_system(messages)
    return (*system, *turns[2 * count :])


def window(messages: Sequence[Message], history: int | None) -> tuple[Message, ...]:
    """What an answer may know: the system message, `history` earlier questions with their answers, the question.

    Args:
        messages: A conversation that ends with the question.
        history: None: all of them.
    """
    system, turns = split_system(messages)
    return (*system, *(turns if history is None else turns[-(2 * history + 1) :]))


def _message(value: object, where: str) -> Message:
    role, content = (value.role, value.content) if isinstance(value, Message) else _fields(value, where)
    if role not in ROLES:
        raise ValueError(f"{where} has the role {str(role)[:40]!r}, expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"{where} has a content of type {type(content).__name__}, expected text")
    if not content.isascii() and any("\ud800" <= letter <= "\udfff" for letter in content):
        raise ValueError(f"{where} has half of a surrogate pair, which is no character")
    return value if isinstance(value, Message) else Message(str(role), content)


def _fields(value: object, where: str) -> tuple[object, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is of type {type(value).__name__}, expected an object with 'role' and 'content'")
    missing = [name for name in ("role", "content") if name not in value]
    if missing:
        found = ", ".join(map(repr, islice(value, 5))) or "none"
        raise ValueError(f"{where} has no {' and no '.join(map(repr, missing))}, found {found}")
    return value["role"], value["content"]


def _alternating() -> Iterable[str]:
    while True:
        yield USER
        yield ASSISTANT
