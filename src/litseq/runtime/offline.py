"""Many prompts through the loop: read ahead within a window, packed by length, given back in the given order."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

from litseq.errors import LitseqError
from litseq.generation import GenerationOptions, Prompt
from litseq.runtime.loops import Outcome, Work
from litseq.runtime.prompts import PromptLike, PromptReader

_WINDOW = 4096
_WINDOW_TOKENS = 1 << 21
"""Token ids held at most (and one block more): long prompts make the window shorter."""
_BLOCK_SECONDS = 8.0
"""Prompts are packed in blocks of so much work: longer blocks pack no better, and an interruption costs a block."""

Item = PromptLike | Prompt | LitseqError
"""What a source gives: a prompt, or the error that stands in the place of one."""


class Source(Protocol):
    """Where prompts come from."""

    failure: Exception | None
    """Why there are no more; raised when all before it is done."""

    def take(self, most: int, *, wait: bool) -> Sequence[Item]:
        """The next prompts, at most `most`, or as many as are there now.

        None at all means with `wait` that there are no more, and without it that none is there yet.
        """


class IterableSource:
    """Prompts from an iterable, which may be without end. `next` is called in the thread that generates."""

    def __init__(self, prompts: Iterable[Item]) -> None:
        self._prompts = iter(prompts)
        self.failure: Exception | None = None

    def take(self, most: int, *, wait: bool) -> list[Item]:
        """See `Source.take`; it waits for the iterable in any case."""
        taken: list[Item] = []
        if self.failure is None:
            try:
                taken.extend(islice(self._prompts, most))
            except Exception as error:
                self.failure = error
        return taken


class OfflineRun:
    """A run over a source of prompts; iterate it once for the outcomes, in the order of the prompts.

    A window of prompts is in work at any time: read, tokenised in a thread beside the loops, submitted in blocks with
    similar lengths side by side, and kept until all before them are done. A new block follows before the last one has
    ended, so that the batches stay full. Memory depends on the window and not on the number of prompts.
    """

    def __init__(
        self,
        source: Source,
        work: AbstractContextManager[Work],
        reader: PromptReader,
        options: GenerationOptions,
        *,
        rows: int,
        window: int | None = None,
        block: int | None = None,
        start: int = 0,
        name: Callable[[int], str] = "prompt {}".format,
        on_step: Callable[[], object] | None = None,
    ) -> None:
        """A run that has not begun.

        Args:
            source: The prompts.
            work: The loops; entered when the iteration begins.
            reader: Makes ids of prompts.
            options: How to generate.
            rows: Rows of all loops together.
            window: Prompts in work at most.
            block: Prompts that are packed together; None: by the speed that is measured.
            start: The place of the first prompt, for the seed and for messages.
            name: What a message calls the prompt of a place.
            on_step: Called between the steps.
        """
        self.taken = start
        """The place behind the last prompt that was taken from the source."""
        self.finished = start
        """The place that `finished` prompts reach, those before `start` and those still kept for their turn included."""
        self._source = source
        self._work = work
        self._reader = reader
        self.options = options
        """How to generate."""
        self._rows = rows
        self._window = max(_WINDOW, 64 * rows) if window is None else window
        self._fixed_block = block
        self._name = name
        self.on_step = on_step or (lambda: None)
        """Called between the steps."""
        self._start = self._next = start
        self._running: dict[int, int] = {}  # by place: tokens of the prompt
        self._done: dict[int, Outcome] = {}
        self._held = 0  # token ids of prompts and outputs that are kept
        self._encoding: Future[list[Prompt | LitseqError]] | None = None
        self._ended = False

    def __iter__(self) -> Generator[Outcome, None, None]:
        """The outcomes; an exception of the source comes behind those of the prompts before it."""
        self._began = time.monotonic()
        with self._work as work, ThreadPoolExecutor(1, "litseq-tokenize") as pool:
            while not (self._ended and self.finished == self.taken):
                self._read_ahead(pool)
                self._submit(work)
                if self._running:
                    for place, outcome in work.collect():
                        self._finish(place, outcome)
                self.on_step()
                yield from self._in_order()
        if self._source.failure is not None:
            raise self._source.failure

    def _read_ahead(self, pool: ThreadPoolExecutor) -> None:
        """Take the next block, and let it be tokenised beside the loops, or here while they have nothing to do."""
        if self._encoding is not None or self._ended:
            return
        room = self._window - (self.taken - self._next)
        starving = not self._running and not self._done
        if not starving and (room < max(1, self._window // 8) or self._held > _WINDOW_TOKENS):
            return
        items = self._source.take(min(room, self._block()), wait=starving)
        if items:
            first, self.taken = self.taken, self.taken + len(items)
            arguments = items, first, self._name, self.options.prefix
            if starving:
                self._encoding = Future()
                self._encoding.set_result(self._reader.read_batch(*arguments))
            else:
                self._encoding = pool.submit(self._reader.read_batch, *arguments)
        self._ended = starving and not items

    def _submit(self, work: Work) -> None:
        """Hand over the next block before the loops run out of prompts."""
        jobs = len(self._running)
        # Rows that stand empty cost more than a short wait for the tokenizer.
        wanted = jobs < self._rows or (jobs < 2 * self._rows and self._encoding is not None and self._encoding.done())
        if self._encoding is None or not wanted:
            return
        prompts, self._encoding = self._encoding.result(), None
        good: list[tuple[int, Prompt]] = []
        for place, prompt in enumerate(prompts, self.taken - len(prompts)):
            if isinstance(prompt, LitseqError):
                self._finish(place, prompt)
            else:
                good.append((place, prompt))
                self._running[place] = prompt.length
                self._held += prompt.length
        # The longest first: similar prompts share a call, and no long one is left alone at the end.
        good.sort(key=lambda item: -item[1].length)
        work.submit(good)

    def _finish(self, place: int, outcome: Outcome) -> None:
        self._held += _tokens(outcome) - self._running.pop(place, 0)
        self._done[place] = outcome
        self.finished += 1

    def _in_order(self) -> Iterator[Outcome]:
        while self._next in self._done:
            outcome = self._done.pop(self._next)
            self._next += 1
            self._held -= _tokens(outcome)
            yield outcome

    def _block(self) -> int:
        if self._fixed_block is not None:
            return self._fixed_block
        speed = (self.finished - self._start) / max(1e-3, time.monotonic() - self._began)
        return min(max(4 * self._rows, int(speed * _BLOCK_SECONDS)), max(1, self._window // 4))


def _tokens(outcome: Outcome) -> int:
    return 0 if isinstance(outcome, LitseqError) else sum(len(completion.token_ids) for completion in outcome)
