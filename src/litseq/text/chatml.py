"""ChatML, the default chat template (https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md)."""

from collections.abc import Iterable, Sequence

from litseq.text.messages import ASSISTANT, Message
from litseq.text.rendered import LabelledIds, RenderedEncoder, Span
from litseq.text.tokenizer import Tokenizer

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The template in Jinja: what a bundle holds. `ChatMl` computes the same without Jinja, message by message."""

_KEPT = 2**16  # messages whose ids are kept


class ChatMl:
    """Encodes conversations message by message, each message once.

    The special tokens around a message part its text from the others', so the ids of a conversation are those of its
    messages one after the other. With the whole history before every answer the same message is asked for many times.
    """

    def __init__(self, tokenizer: Tokenizer, encoder: RenderedEncoder) -> None:
        """Check that the tokenizer has the tokens.

        Raises:
            ValueError: when it has not.
        """
        tokens = {token.text: token for token in tokenizer.special_tokens}
        missing = [name for name in (IM_START, IM_END) if name not in tokens]
        if missing:
            raise ValueError(
                f"the tokenizer has no special token {' and no '.join(missing)}, which the ChatML template writes; "
                "give chat_template= the template that belongs to the tokenizer"
            )
        self.stop_id = tokens[IM_END].id
        self._encoder = encoder
        self._prompt = encoder.ids(f"{IM_START}{ASSISTANT}\n")
        self._kept: dict[Message, tuple[list[int], Span | None]] = {}

    def render(self, messages: Iterable[Message], add_generation_prompt: bool) -> str:
        """The text that the ids are of."""
        hide = self._encoder.special.hide
        parts = [f"{IM_START}{message.role}\n{hide(message.content)}{IM_END}\n" for message in messages]
        return "".join(parts) + (f"{IM_START}{ASSISTANT}\n" if add_generation_prompt else "")

    def encode(self, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool) -> list[LabelledIds]:
        """The ids of conversations, and which of them the assistant generates."""
        self._learn({message for conversation in conversations for message in conversation} - self._kept.keys())
        behind = self._prompt if add_generation_prompt else ()
        found = []
        for conversation in conversations:
            ids: list[int] = []
            spans: list[Span] = []
            for message in conversation:
                own, span = self._kept[message]
                if span is not None:
                    spans.append((len(ids) + span[0], len(ids) + span[1]))
                ids += own
            found.append(LabelledIds([*ids, *behind], spans))
        if len(self._kept) > _KEPT:
            self._kept.clear()
        return found

    def _learn(self, messages: set[Message]) -> None:
        ordered = list(messages)
        rendered = []
        for message in ordered:
            text = self.render([message], add_generation_prompt=False)
            start = len(IM_START) + len(message.role) + 1
            rendered.append((text, [(start, len(text) - 1)] if message.role == ASSISTANT else []))
        for message, labelled in zip(ordered, self._encoder.encode(rendered), strict=True):
            self._kept[message] = labelled.ids, (labelled.spans[0] if labelled.spans else None)
