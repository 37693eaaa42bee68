"""Text while the tokens are still coming: a character is given out when all of its tokens are there."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder shows for bytes that are no character yet


class StreamDecoder:
    """Turns token ids into pieces of text one at a time; the pieces together are the text of all ids.

    A character may take several tokens (bytes of UTF-8) and a token's text may depend on the one before it (a leading
    space). So the decoder keeps the tokens of the last piece as context and gives out only what follows their text, and
    holds back a text that ends in an incomplete character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], wrong_byte: int | None = None) -> None:
        """A decoder that has seen nothing.

        Args:
            decode: Gives the text of ids.
            wrong_byte: The token of a byte that UTF-8 never has, where `decode` shows a run of bytes with one wrong among
                them as U+FFFD throughout: characters in a run are then certain when the run has ended.
        """
        self._decode = decode
        self._wrong_byte = wrong_byte
        self._ids: list[int] = []
        self._given = 0  # ids whose text was given out; those before them are kept as context only
        self._given_text = ""

    def push(self, token_id: int) -> str:
        """Take one token; the text that is now certain, often empty for a part of a character."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith(_INCOMPLETE) or len(text) <= len(self._given_text):
            return ""
        if self._wrong_byte is not None and not self._decode([*self._ids, self._wrong_byte]).startswith(text):
            return ""
        return self._give(text)

    def flush(self) -> str:
        """What was held back; call it once behind the last token."""
        return self._give(self._decode(self._ids)) if self._ids else ""

    def _give(self, text: str) -> str:
        piece = text[len(self._given_text) :]
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        self._given_text = self._decode(self._ids)
        return piece
