"""Prompts and targets of a user, to token ids that fit the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litseq.bundle import Manifest
from litseq.errors import BundleError, LitseqError, UsageError
from litseq.generation import Prompt
from litseq.generation.plain import ArrayLike, is_list, is_whole, plain
from litseq.text import PromptFormat, Tokenizer

PromptLike = str | Sequence[int] | ArrayLike
"""A text, which the bundle's prompt format frames, or token ids, which are taken as they are."""


class PromptReader:
    """Turns prompts into `Prompt`s by the bundle's prompt format."""

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, end_id: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._end_id = tokenizer.eos_id if end_id is None else end_id
        self._has_encoder = manifest.encoder is not None
        self._vocab_size = manifest.model.vocab_size
        self._max_length = manifest.model.max_seq_len
        try:
            self._format = PromptFormat.from_dict(manifest.prompt_format)
        except (ValueError, TypeError) as error:
            raise BundleError(f"manifest.json is not usable: {error}; export the bundle again") from error
        ids = (*self._format.prefix_ids, *self._format.suffix_ids, *self._format.start_ids)
        if max(ids, default=0) >= self._vocab_size:
            raise BundleError(
                f"manifest.json is not usable: prompt_format has the id {max(ids)}, vocab_size is {self._vocab_size}"
            )
        if self._has_encoder and not self._format.start_ids:
            raise BundleError("manifest.json is not usable: prompt_format has no start_ids for the decoder")

    def read(self, prompt: PromptLike, where: str = "the prompt", prefix: PromptLike = ()) -> Prompt:
        """The prompt as ids, with the forced beginning of the output behind it.

        Raises:
            UsageError: when it is of the wrong type, empty, too long, or has ids the model does not know.
        """
        return self._prompt(prompt, self._ids(prompt, where), where, self._ids(prefix, "prefix"))

    def read_batch(
        self,
        prompts: Sequence[PromptLike | Prompt | LitseqError],
        first: int = 0,
        name: Callable[[int], str] = "prompt {}".format,
        prefix: PromptLike = (),
    ) -> list[Prompt | LitseqError]:
        """`read` for many prompts, whose texts are encoded together.

        Args:
            prompts: What `read` takes; prompts that are read already and errors stay what they are.
            first: The place of the first one.
            name: What a message calls the prompt of a place.
            prefix: The forced beginning of the outputs.

        Returns:
            A prompt for each, or in its place the error that `read` raises.
        """
        texts = [prompt for prompt in prompts if isinstance(prompt, str) and is_unicode(prompt)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        forced = self._ids(prefix, "prefix")
        found: list[Prompt | LitseqError] = []
        for place, prompt in enumerate(prompts, first):
            if isinstance(prompt, Prompt | LitseqError):
                found.append(prompt)
                continue
            try:
                known = isinstance(prompt, str) and is_unicode(prompt)
                ids = next(encoded) if known else self._ids(prompt, name(place))
                found.append(self._prompt(prompt, ids, name(place), forced))
            except UsageError as error:
                found.append(error)
        return found

    def read_words(self, words: Sequence[PromptLike]) -> tuple[tuple[int, ...], ...]:
        """Words that must not occur, as ids: a text is tokenised as it stands and behind a space."""
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            spellings = (word, f" {word}") if isinstance(word, str) else (word,)
            found |= {tuple(ids): None for spelling in spellings if (ids := self._ids(spelling, "a word of bad_words"))}
        return tuple(found)

    def read_target(self, target: PromptLike, prompt: Prompt, where: str) -> list[int]:
        """A target as ids, with the end token behind a text."""
        ids = self._ids(target, where)
        ids = [*ids, self._end_id] if isinstance(target, str) else ids
        room = self._max_length - len(prompt.ids) + 1
        if len(ids) > room:
            raise UsageError(
                f"{where} has {len(ids)} tokens, the model has room for {room} behind its prompt; shorten it"
            )
        return ids

    def _prompt(self, prompt: PromptLike, ids: list[int], where: str, forced: list[int]) -> Prompt:
        ids = self._format.render(ids) if isinstance(prompt, str) else ids
        if not ids:
            raise UsageError(f"{where} is empty; give at least one token")
        if len(ids) > self._max_length:
            raise UsageError(f"{where} has {len(ids)} tokens, the model takes at most {self._max_length}; shorten it")
        start = [*(self._format.start_ids if self._has_encoder else ids), *forced]
        if len(start) > self._max_length:
            raise UsageError(
                f"{where} and prefix have {len(start)} tokens, the model takes at most {self._max_length}; shorten them"
            )
        return Prompt(start, ids if self._has_encoder else None, len(forced))

    def _ids(self, given: PromptLike, where: str) -> list[int]:
        if isinstance(given, str):
            if not is_unicode(given):
                raise UsageError(f"{where} is no valid Unicode (a lone surrogate); decode it as UTF-8 first")
            ids = self._tokenizer.encode(given)
        elif is_list(row := plain(given)) and all(is_whole(i) for i in row):
            ids = [int(i) for i in row]
        else:
            raise UsageError(f"{where} is of type {type(given).__name__}, expected text or a list of token ids")
        outside = [i for i in ids if not 0 <= i < self._vocab_size]
        if outside:
            raise UsageError(f"{where} has the token id {outside[0]}, the model knows 0 to {self._vocab_size - 1}")
        return ids


def is_unicode(text: str) -> bool:
    """Whether `text` can be encoded: a name or an argument that was no UTF-8 holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_list(values: object, name: str) -> None:
    """Refuse a single text where a list is meant: its letters would each be a prompt."""
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise UsageError(
            f"{name} is of type {type(values).__name__}, expected a list of texts or of lists of token ids"
        )
