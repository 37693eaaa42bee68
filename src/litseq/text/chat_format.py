"""`ChatFormat`: how a model is asked, and what is left out of a conversation that is too long for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from litseq.text.chat_template import ChatTemplate, Conversation
from litseq.text.messages import USER, drop_oldest, window
from litseq.text.prompt_format import PromptFormat
from litseq.text.tokenizer import Tokenizer

_ROOM = 0.25
"""Share of the positions that a prompt leaves to the answer, where no less is asked for."""

Encoded = TypeVar("Encoded", bound=Sized)


@dataclass(frozen=True)
class Fitted(Generic[Encoded]):
    """A conversation cut to a length."""

    encoded: Encoded | None
    """None: even the newest question alone is too long."""
    dropped: int
    """Oldest questions that were dropped, each with its answer."""


def fit(
    conversations: Sequence[Conversation],
    encode: Callable[[Iterable[Conversation]], Iterable[Encoded]],
    limits: Sequence[int],
) -> list[Fitted[Encoded]]:
    """Cut conversations to a length by dropping whole turns, the oldest first; the system message stays.

    Args:
        conversations: The conversations, each with a question of the user's.
        encode: Makes what has a length.
        limits: The greatest length of each.

    Returns:
        One for each: as few turns dropped as will do.
    """
    found = [Fitted(encoded, 0) for encoded in encode(conversations)]
    # Fewer turns are never longer, so halving finds the number, all conversations at a time.
    bounds: dict[int, tuple[int, int]] = {}
    for i, fitted in enumerate(found):
        if len(fitted.encoded or ()) > limits[i]:
            questions = sum(message.role == USER for message in conversations[i])
            bounds[i] = (1, questions - 1)
            found[i] = Fitted(None, 0)
    while bounds := {i: (low, high) for i, (low, high) in bounds.items() if low <= high}:
        middles = {i: (low + high) // 2 for i, (low, high) in bounds.items()}
        shorter = encode(drop_oldest(conversations[i], count) for i, count in middles.items())
        for (i, count), encoded in zip(middles.items(), shorter, strict=True):
            low, high = bounds[i]
            if len(encoded) <= limits[i]:
                found[i], bounds[i] = Fitted(encoded, count), (low, count - 1)
            else:
                bounds[i] = (count + 1, high)
    return found


@dataclass(frozen=True)
class ChatFormat:
    """The chat template and how a model uses it: the same in training and in serving."""

    template: ChatTemplate
    stop_ids: tuple[int, ...]
    """What ends an answer."""
    history: int | None = None
    """Earlier questions, with their answers, that an answer may know; None: all."""
    generation_prompt: bool = True
    """Whether a prompt ends with what introduces the answer; an encoder's source does not."""

    def prompts(self, conversations: Sequence[Conversation], limits: Sequence[int]) -> list[Fitted[list[int]]]:
        """What the model reads before it answers the question at the end of each conversation.

        Raises:
            ValueError: where the template refuses a conversation.
        """
        asked = [window(conversation, self.history) for conversation in conversations]
        return fit(asked, self.encode, limits)

    def questions(
        self, conversations: Sequence[Conversation], max_length: int, max_new_tokens: int | None, shared: bool
    ) -> list[Fitted[list[int]]]:
        """`prompts` for a model of so many positions, with room for the answer where they hold that as well.

        Args:
            conversations: Each ends with a question.
            max_length: The positions.
            max_new_tokens: How long an answer may become; None: as long as it likes. So much room is left, up to a
                quarter of the positions, but for a question that is too long for that: rather a short answer than none.
            shared: The positions hold prompt and answer together; those of an encoder hold the prompt alone.

        Raises:
            ValueError: where the template refuses a conversation.
        """
        most = int(_ROOM * max_length) if shared else 0
        room = most if max_new_tokens is None else min(max_new_tokens, most)
        found = self.prompts(conversations, [max_length - room] * len(conversations))
        long = [i for i, fitted in enumerate(found) if fitted.encoded is None] if room else []
        again = self.prompts([conversations[i] for i in long], [max_length] * len(long))
        for i, fitted in zip(long, again, strict=True):
            found[i] = fitted
        return found

    def encode(self, conversations: Iterable[Conversation]) -> Iterable[list[int]]:
        """The ids of conversations as they are, all of each."""
        return self.template.encode_many(conversations, add_generation_prompt=self.generation_prompt)

    def prompt_format(self, start_ids: tuple[int, ...]) -> PromptFormat:
        """The frame of a text that is one question."""
        before, behind = self.template.around_question(self.generation_prompt)
        return PromptFormat(tuple(before), tuple(behind), start_ids)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint or a manifest."""
        return self.template.to_dict() | {
            "stop_ids": list(self.stop_ids),
            "history": self.history,
            "generation_prompt": self.generation_prompt,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tokenizer: Tokenizer) -> "ChatFormat":
        """The inverse of `to_dict`.

        Raises:
            ValueError: when a value cannot be used.
        """
        stops, history = values.get("stop_ids"), values.get("history")
        generation_prompt = values.get("generation_prompt", True)
        if not isinstance(stops, list | tuple) or not stops or not all(type(i) is int and i >= 0 for i in stops):
            raise ValueError(f"stop_ids is {stops!r}, expected a list of token ids")
        if history is not None and (type(history) is not int or history < 0):
            raise ValueError(f"history is {history!r}, expected a number of questions, or null for all")
        if not isinstance(generation_prompt, bool):
            raise ValueError(f"generation_prompt is {generation_prompt!r}, expected true or false")
        template = ChatTemplate.from_dict(values, tokenizer)
        return cls(template, tuple(stops), history, generation_prompt)
