"""What a template rendered, to token ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from litseq.text.special_text import SpecialText
from litseq.text.tokenizer import Tokenizer

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LabelledIds:
    """A conversation as ids, and the stretches of them that the assistant generates, its stop tokens included."""

    ids: list[int]
    spans: list[Span]

    def __len__(self) -> int:
        return len(self.ids)


class RenderedEncoder:
    """Encodes texts in which the words of special tokens are those tokens, but for what `SpecialText` has hidden."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.special = SpecialText(tokenizer.special_tokens)

    def encode(self, rendered: Sequence[tuple[str, Sequence[Span]]]) -> list[LabelledIds]:
        """The ids of texts, and the tokens of stretches of their characters, on all processors."""
        hides = self.special.hides
        plain = iter(self._tokenizer.encode_rendered([text for text, _ in rendered if not hides(text)]))
        return [
            self._by_parts(text, spans) if hides(text) else _labelled(next(plain), spans) for text, spans in rendered
        ]

    def ids(self, text: str) -> list[int]:
        """The ids of one text."""
        return self.encode([(text, ())])[0].ids

    def _by_parts(self, text: str, spans: Iterable[Span]) -> LabelledIds:
        """The tokens of a text in which something is hidden, each part between special tokens encoded by itself.

        That is what a tokenizer does around special tokens, but for one that treats the beginning of the whole text in
        its own way.
        """
        ids: list[int] = []
        places: list[Span] = []
        for place, part in self.special.parts(text):
            if isinstance(part, str):
                encoding = self._tokenizer.encode_with_offsets(part)
                ids += encoding.ids
                places += ((place + start, place + end) for start, end in encoding.offsets)
            else:
                ids.append(part.id)
                places.append((place, place + len(part.text)))
        return LabelledIds(ids, [_overlap(places, *span) for span in spans])


def _labelled(encoding: Any, spans: Iterable[Span]) -> LabelledIds:
    return LabelledIds(encoding.ids, [_token_span(encoding, *span) for span in spans])


def _token_span(encoding: Any, start: int, end: int) -> Span:
    """The tokens of the characters from `start` to `end`; some characters are in no token."""

    def first(places: Iterable[int]) -> int | None:
        return next((token for place in places if (token := encoding.char_to_token(place)) is not None), None)

    begin, last = first(range(start, end)), first(range(end - 1, start - 1, -1))
    return (0, 0) if begin is None or last is None else (begin, last + 1)


def _overlap(places: Sequence[Span], begin: int, stop: int) -> Span:
    inside = [i for i, (start, end) in enumerate(places) if start < stop and end > begin]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
