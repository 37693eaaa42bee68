"""Conversations of a user, to token ids that fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litseq.bundle import Manifest
from litseq.errors import BundleError, UsageError
from litseq.text import ChatFormat, Tokenizer
from litseq.text.messages import USER, MessageLike, read_messages


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """What the model reads before it answers."""

    token_ids: list[int]
    dropped: int
    """Oldest questions, each with its answer, that were left out because the conversation is too long for the model."""


class ChatReader:
    """Turns conversations into prompts by the bundle's chat format, the one its model was trained with."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer) -> None:
        self._max_length = manifest.model.max_seq_len
        self._shared = manifest.encoder is None
        self.format: ChatFormat | None = None
        if not manifest.chat:
            return
        try:
            self.format = ChatFormat.from_dict(manifest.chat, tokenizer)
        except ValueError as error:
            raise BundleError(f"manifest.json is not usable: chat: {error}; export the bundle again") from error
        outside = [token for token in self.format.stop_ids if token >= manifest.model.vocab_size]
        if outside:
            raise BundleError(
                f"manifest.json is not usable: chat has the stop id {outside[0]}, vocab_size is "
                f"{manifest.model.vocab_size}"
            )

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer; nothing where the model is no chatbot."""
        return self.format.stop_ids if self.format else ()

    def read(self, messages: Sequence[MessageLike], max_new_tokens: int | None) -> ChatPrompt:
        """The ids of a conversation that ends with a question.

        Args:
            messages: The conversation.
            max_new_tokens: How long the answer may become. So much room is left where the model's positions hold prompt
                and answer together, up to a quarter of them.

        Raises:
            UsageError: it is no conversation, ends with an answer, or its last question alone is too long.
        """
        if self.format is None:
            raise UsageError(
                "the bundle has no chat template: its model was not trained on conversations; use generate, or train "
                "with a ConversationDataModule"
            )
        try:
            read = read_messages(messages)
            if read[-1].role != USER:
                raise ValueError(f"the last message is by the {read[-1].role}, expected the user's, to be answered")
            (fitted,) = self.format.questions([read], self._max_length, max_new_tokens, self._shared)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if fitted.encoded is None:
            raise UsageError(
                f"the last message alone is over the {self._max_length} tokens that the model takes; shorten it"
            )
        return ChatPrompt(fitted.encoded, fitted.dropped)
