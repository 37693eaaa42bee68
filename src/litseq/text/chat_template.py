"""`ChatTemplate`: a conversation to token ids, by one function in training and in serving."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from litseq.text.chatml import CHATML, ChatMl
from litseq.text.messages import ASSISTANT, USER, Message
from litseq.text.rendered import LabelledIds, RenderedEncoder, Span
from litseq.text.special_text import RESERVED
from litseq.text.special_tokens import ROLES
from litseq.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from litseq.text.chat_jinja import JinjaTemplate

_CHUNK = 4096  # conversations encoded at a time
_LARGEST = 1_000_000  # characters of a template; the longest published ones have some 20,000
_PROBE = "litseq"
_NO_STOP = "the chat template writes no special token behind an answer, so that none would end"

Conversation = Sequence[Message]


class ChatTemplate:
    """Renders conversations for a tokenizer.

    Special tokens come from the template only: where a message contains the words `<|im_end|>`, they are encoded as
    text.
    """

    def __init__(
        self, tokenizer: Tokenizer, source: str = CHATML, special_tokens: Mapping[str, str] | None = None
    ) -> None:
        """Compile a template and try it on a question.

        Args:
            tokenizer: The tokenizer.
            source: Jinja, with the variables and helpers that transformers gives a chat template.
            special_tokens: The variables `bos_token`, `eos_token`, ...; None: as the tokenizer has them.

        Raises:
            ValueError: when the template cannot be used, with the reason.
        """
        if not isinstance(source, str) or len(source) > _LARGEST:
            raise ValueError(f"the chat template is no text of at most {_LARGEST:,} characters")
        self.source = source
        self.special_tokens = dict(_named(tokenizer) if special_tokens is None else special_tokens)
        self._encoder = RenderedEncoder(tokenizer)
        self._chatml: ChatMl | None = None
        self._jinja: JinjaTemplate | None = None
        if source == CHATML:
            self._chatml = ChatMl(tokenizer, self._encoder)
        else:
            from litseq.text import chat_jinja

            self._jinja = chat_jinja.JinjaTemplate(source, self.special_tokens)
        self._render([Message(USER, _PROBE)], add_generation_prompt=True)

    @cached_property
    def stop_id(self) -> int:
        """The token that ends an answer.

        Raises:
            ValueError: when the template does not tell.
        """
        if self._chatml is not None:
            return self._chatml.stop_id
        text, spans = self._labelled([Message(USER, _PROBE), Message(ASSISTANT, _PROBE)])
        found = self._encoder.special.find(text, spans[-1][0]) if spans else None
        if found is None or found[1] > spans[-1][1]:
            raise ValueError(_NO_STOP)
        return found[0].id

    def encode(self, messages: Conversation, *, add_generation_prompt: bool = True) -> list[int]:
        """The ids of a conversation.

        Args:
            messages: The conversation.
            add_generation_prompt: End with what introduces the assistant's answer.

        Raises:
            ValueError: where the template refuses the conversation.
        """
        return next(self.encode_many([messages], add_generation_prompt=add_generation_prompt))

    def encode_many(
        self, conversations: Iterable[Conversation], *, add_generation_prompt: bool = True
    ) -> Iterator[list[int]]:
        """`encode` for many conversations, on all processors."""
        for chunk in _chunks(conversations):
            if self._chatml is not None:
                yield from (item.ids for item in self._chatml.encode(chunk, add_generation_prompt))
                continue
            texts = [self._render(conversation, add_generation_prompt)[0] for conversation in chunk]
            if add_generation_prompt:
                yield from self._before_more(texts)
            else:
                yield from (item.ids for item in self._encoder.encode([(text, ()) for text in texts]))

    def encode_labelled(self, conversations: Iterable[Conversation]) -> Iterator[LabelledIds]:
        """Whole conversations, with what the assistant generates marked.

        Raises:
            ValueError: where the template refuses a conversation, or does not tell what the assistant generates.
        """
        for chunk in _chunks(conversations):
            if self._chatml is not None:
                yield from self._chatml.encode(chunk, add_generation_prompt=False)
            else:
                yield from self._encoder.encode([self._labelled(conversation) for conversation in chunk])

    def around_question(self, add_generation_prompt: bool) -> tuple[list[int], list[int]]:
        """The ids before and behind the text of a conversation that is one question."""
        text, _ = self._render([Message(USER, _PROBE)], add_generation_prompt)
        before, probe, behind = text.partition(_PROBE)
        if not probe or _PROBE in behind:
            raise ValueError("the chat template does not write a user's message once and as it is")
        (ids,) = self._before_more([before])
        return ids, (self._before_more([behind])[0] if add_generation_prompt else self._encoder.ids(behind))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for a checkpoint or a manifest."""
        return {"template": self.source, "special_tokens": dict(self.special_tokens)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tokenizer: Tokenizer) -> "ChatTemplate":
        """The inverse of `to_dict`.

        Raises:
            ValueError: when a value is of the wrong type, or the template cannot be used.
        """
        tokens = values.get("special_tokens", {})
        if not isinstance(tokens, Mapping) or not all(
            isinstance(name, str) and isinstance(token, str) for name, token in tokens.items()
        ):
            raise ValueError("special_tokens is no object of texts")
        return cls(tokenizer, values.get("template", CHATML), tokens)

    def _before_more(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts behind which a word will stand: those that they have in front of one.

        Many tokenizers read white space at the end of a text as other tokens than in front of a word, and in training
        there is one.
        """
        spaced = [text[-1:].isspace() for text in texts]
        found = self._encoder.encode(
            [
                (text + _PROBE, [(len(text), len(text) + len(_PROBE))]) if ends else (text, ())
                for text, ends in zip(texts, spaced, strict=True)
            ]
        )
        return [item.ids[: item.spans[0][0]] if ends else item.ids for item, ends in zip(found, spaced, strict=True)]

    def _render(self, messages: Conversation, add_generation_prompt: bool) -> tuple[str, list[Span] | None]:
        """The text, and where the assistant's parts are in it, if the template says so."""
        if self._jinja is None:
            assert self._chatml is not None
            return self._chatml.render(messages, add_generation_prompt), None
        hide = self._encoder.special.hide
        hidden = [Message(message.role, hide(message.content)).to_dict() for message in messages]
        text = self._jinja.render(hidden, add_generation_prompt)
        return _cut_marks(text) if self._jinja.has_generation_blocks else (text, None)

    def _labelled(self, messages: Conversation) -> tuple[str, list[Span]]:
        text, spans = self._render(messages, add_generation_prompt=False)
        if spans is None:
            return text, list(self._derived_spans(messages, text))
        return text, [self._with_stop(text, span) for span in spans]

    def _with_stop(self, text: str, span: Span) -> Span:
        """A span that its template ends before the stop token, which must be learned too, takes it in."""
        if self._encoder.special.find(text[slice(*span)]) is None:
            found = self._encoder.special.find(text, span[1])
            if found is not None and found[1] - len(found[0].text) == span[1]:
                return span[0], found[1]
        return span

    def _derived_spans(self, messages: Conversation, text: str) -> Iterator[Span]:
        """What follows the prompt of each answer, up to the next special token, which is the stop token."""
        for i, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            prompt, _ = self._render(messages[:i], add_generation_prompt=True)
            if not text.startswith(prompt):
                raise ValueError(
                    f"the chat template does not write the prompt of message {i + 1} as the beginning of the whole "
                    "conversation, so that what the assistant generates cannot be told; mark it in the template with "
                    "{% generation %} and {% endgeneration %}"
                )
            found = self._encoder.special.find(text, len(prompt))
            if found is None:
                raise ValueError(_NO_STOP)
            yield len(prompt), found[1]


def sample_text(source: str, special_tokens: Mapping[str, str], more: Iterable[str]) -> str:
    """What a template writes besides the messages, so that a tokenizer trained on them knows its letters too.

    Args:
        source: The template.
        special_tokens: `bos_token` and the like; they are left out of the text.
        more: Further special tokens.
    """
    if source == CHATML:
        return "\n".join((USER, ASSISTANT))
    from litseq.text import chat_jinja

    sample = [Message(role, _PROBE).to_dict() for role in (USER, ASSISTANT, USER)]
    text = chat_jinja.JinjaTemplate(source, special_tokens).render(sample, add_generation_prompt=True)
    for token in (*RESERVED, *special_tokens.values(), *more):
        text = text.replace(token, "")
    return text


def _cut_marks(text: str) -> tuple[str, list[Span]]:
    """A rendered text without the marks of its generation blocks, and where they were."""
    opening, closing = RESERVED
    head, *blocks = text.split(opening)
    parts, spans, length = [head], [], len(head)
    for block in blocks:
        inside, _, behind = block.partition(closing)
        spans.append((length, length + len(inside)))
        parts += (inside, behind)
        length += len(inside) + len(behind)
    return "".join(parts), spans


def _named(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token`, `eos_token`, ... as transformers calls them, those that the tokenizer has."""
    ids = {role: getattr(tokenizer, f"{role}_id") for role in ROLES}
    # pad and bos fall back on eos in a Tokenizer; a template that asks for them is told that there are none.
    own = {role: i for role, i in ids.items() if i is not None and (role == "eos" or i != ids["eos"])}
    names = {role: tokenizer.id_to_token(i) for role, i in own.items()}
    return {f"{role}_token": name for role, name in names.items() if name is not None}


def _chunks(items: Iterable[Conversation]) -> Iterator[list[Conversation]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
