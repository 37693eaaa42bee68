"""Keeps special tokens that only stand in a text apart from those that a template writes."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Unicode's noncharacters, which are for the inside of a program: no text has a use for them.
_FIRST, _LAST = 0xFDD0, 0xFDEF
RESERVED = tuple(chr(code) for code in range(_LAST - 1, _LAST + 1))
"""Two that `SpecialText` leaves to others."""
_REMOVED = dict.fromkeys(range(_FIRST, _LAST + 1))
_ANY = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")


@dataclass(frozen=True)
class SpecialToken:
    """A special token of a tokenizer, and whether it swallows the white space beside it."""

    id: int
    text: str
    strips_left: bool = False
    strips_right: bool = False


class SpecialText:
    """Hides the special tokens in what people write, so that a rendered conversation holds only the template's own.

    A single character of what would be read as a special token is replaced by a noncharacter, before the template runs,
    and put back when the text is encoded. Positions in the text stay the same, and so does what a template looks at:
    white space, beginnings, words.
    """

    def __init__(self, tokens: Iterable[SpecialToken]) -> None:
        self._tokens = {token.text: token for token in tokens}
        edges = sorted({edge for text in self._tokens for edge in (text[0], text[-1])})
        free = [chr(code) for code in range(_FIRST, _LAST - 1)]
        if len(edges) > len(free):
            raise ValueError(f"the special tokens begin and end with {len(edges)} characters, expected {len(free)}")
        self._hidden: Mapping[str, str] = dict(zip(edges, free, strict=False))
        self._shown = {ord(hidden): edge for edge, hidden in self._hidden.items()}
        self._edges = re.compile(f"[{''.join(map(re.escape, edges))}]") if edges else None
        longest = sorted(self._tokens, key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, longest))) if longest else None
        spaced = (
            (r"\s*" if token.strips_left else "")
            + f"({re.escape(token.text)})"
            + (r"\s*" if token.strips_right else "")
            for token in map(self._tokens.__getitem__, longest)
        )
        self._split = re.compile("|".join(spaced)) if longest else None

    def hide(self, text: str) -> str:
        """What a person wrote, without anything that could be read as a special token."""
        if not text.isascii():
            text = text.translate(_REMOVED)
        if self._edges is None or not self._edges.search(text):
            return text
        places = self._beginnings(text) | self._endings(text)
        if not places:
            return text
        return "".join(self._hidden[letter] if i in places else letter for i, letter in enumerate(text))

    def show(self, text: str) -> str:
        """The text as it was before `hide`."""
        return text.translate(self._shown)

    def hides(self, text: str) -> bool:
        """Whether something in the text is hidden."""
        return not text.isascii() and _ANY.search(text) is not None

    def find(self, text: str, start: int = 0) -> tuple[SpecialToken, int] | None:
        """The first special token from `start` on, and where it ends."""
        match = self._found.search(text, start) if self._found else None
        return (self._tokens[match[0]], match.end()) if match else None

    def parts(self, text: str) -> Iterable[tuple[int, str | SpecialToken]]:
        """The text as special tokens and what stands between them, each with its place; nothing is hidden any more."""
        done = 0
        for match in self._split.finditer(text) if self._split else ():
            if match.start() > done:
                yield done, self.show(text[done : match.start()])
            group = match.lastindex or 0
            yield match.start(group), self._tokens[match[group]]
            done = match.end()
        if done < len(text):
            yield done, self.show(text[done:])

    def _beginnings(self, text: str) -> set[int]:
        """Where a special token begins that is complete, or that what follows the text might complete."""
        places = set()
        end = text.rstrip()
        for token in self._tokens:
            place = text.find(token[0])
            while place >= 0:
                if text.startswith(token, place) or token.startswith(end[place:]):
                    places.add(place)
                place = text.find(token[0], place + 1)
        return places

    def _endings(self, text: str) -> set[int]:
        """Where a special token ends whose beginning might stand before the text."""
        skipped = len(text) - len(text.lstrip())
        return {
            skipped + length - 1
            for token in self._tokens
            for length in range(1, len(token))
            if text.startswith(token[-length:], skipped)
        }
