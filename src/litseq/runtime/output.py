"""From generated tokens to completions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litseq.generation import GenerationOptions, Prompt, Request, Result
from litseq.runtime.completion import Completion
from litseq.runtime.text_stream import TextStream
from litseq.text import Tokenizer

_TAIL_TOKENS = 8  # decoded beyond the length of a stop string: a token may be a part of a character


class OutputText:
    """The text of one request's outputs: cut at stop strings, with its forced beginning in front."""

    def __init__(
        self, tokenizer: Tokenizer, options: GenerationOptions, *, live: bool = False, keep: bool = False
    ) -> None:
        """For one request; with `live`, `pop` gives text while it comes; `keep` is the request's."""
        self._keep = keep
        self._tokenizer = tokenizer
        self._options = options
        self._live = self._new_stream() if live or (options.stop and self._is_single) else None
        self._forced: list[int] = []
        self._said: list[str] = []

    @property
    def _is_single(self) -> bool:
        return self._options.num_beams == 1 and self._options.num_return_sequences == 1

    def request(self, prompt: Prompt, index: int, priority: int = 0) -> Request:
        """The request that feeds this text."""
        self._forced = list(prompt.ids[len(prompt.ids) - prompt.forced :]) if prompt.forced else []
        if self._live is not None:
            for token in self._forced:
                self._live.push(token)
        stops = self._ends if self._options.stop and not self._is_single else None
        on_token = self._live.push if self._live is not None else None
        return Request(prompt, self._options, index, on_token, stops, priority, self._keep)

    def pop(self, *, last: bool = False) -> str:
        """The text that became certain since the last call; with `last` what was held back as well."""
        assert self._live is not None
        if last:
            self._live.flush()
        piece = self._live.pop()
        self._said.append(piece)
        return piece

    def completions(self, result: Result) -> list[Completion]:
        """The outputs, best first."""
        return [self._complete(each, self._live if i == 0 else None) for i, each in enumerate((result, *result.others))]

    def streamed(self, result: Result, give: Callable[[str], None]) -> Completion:
        """The output of which `pop` gave pieces; the last piece goes to `give`."""
        assert self._live is not None
        stopped = self._live.flush()
        if piece := self.pop():
            give(piece)
        reason = "stop" if stopped else result.finish_reason
        tokens = [*self._forced, *result.tokens]
        return Completion("".join(self._said), tokens, reason, result.score, result.log_probs, result.alternatives)

    def _complete(self, result: Result, stream: TextStream | None) -> Completion:
        tokens, reason = [*self._forced, *result.tokens], result.finish_reason
        if stream is None and not self._options.stop:
            text = self._tokenizer.decode(tokens)
        else:
            if stream is None:
                stream = self._new_stream()
                for token in tokens:
                    stream.push(token)
            reason = "stop" if stream.flush() else reason
            text = stream.pop()
        return Completion(text, tokens, reason, result.score, result.log_probs, result.alternatives)

    def _ends(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string appears at the end of an output."""
        longest = max(len(text.encode()) for text in self._options.stop)
        tail = self._tokenizer.decode([*self._forced, *tokens][-longest - _TAIL_TOKENS :])
        return any(text in tail for text in self._options.stop)

    def _new_stream(self) -> TextStream:
        return TextStream(self._tokenizer.stream(), self._options.stop)
