"""Requests of many callers in one loop: continuous batching."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING

from litseq.errors import LitseqError, UsageError
from litseq.generation import Engine, Request, Result
from litseq.generation.engine import CHUNK_TOKENS
from litseq.runtime.completion import Completion
from litseq.runtime.integers import check_integer
from litseq.runtime.output import OutputText
from litseq.runtime.prompts import PromptLike

if TYPE_CHECKING:
    from litseq.runtime.generator import Generator


class Pending:
    """A request on its way."""

    def __init__(self, scheduler: Scheduler, writer: OutputText, stream: bool) -> None:
        self._scheduler = scheduler
        self._writer = writer
        self._stream = stream
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._future: Future[list[Completion]] = Future()

    def result(self, timeout: float | None = None) -> Completion:
        """The completion, the best one where several were asked for; waits for it.

        Raises:
            TimeoutError: after `timeout` seconds.
            LitseqError: when the loop failed or was closed before the request was done.
            Exception: what the request's own `prefix_allowed_tokens` raised.
        """
        return self.results(timeout)[0]

    def results(self, timeout: float | None = None) -> list[Completion]:
        """All completions, best first; waits for them."""
        return self._future.result(timeout)

    def __iter__(self) -> Iterator[str]:
        """The text in pieces, each as soon as it is certain; of a request without `stream` all of it at the end."""
        if not self._stream:
            if text := self.result().text:
                yield text
            return
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # whoever iterates again finds the end too, and does not wait for ever
        self._future.result()  # raises what the loop failed with

    def done(self) -> bool:
        """Whether the result is there."""
        return self._future.done()

    def cancel(self) -> None:
        """End the request; its result is what it has so far, with the finish reason "cancelled"."""
        self._scheduler._cancel(self)

    def _tell(self) -> None:
        if self._stream and (piece := self._writer.pop()):
            self._pieces.put(piece)

    def _finish(self, result: Result) -> None:
        if result.error is not None:
            self._fail(result.error)
        elif self._stream:
            self._future.set_result([self._writer.streamed(result, self._pieces.put)])
            self._pieces.put(None)
        else:
            self._future.set_result(self._writer.completions(result))

    def _fail(self, error: BaseException) -> None:
        self._future.set_exception(error)
        self._pieces.put(None)


class Scheduler:
    """Runs the requests of many callers together, in a thread of its own.

    A request enters while others run: its prompt is read in chunks beside them, it leaves as soon as it is done, and the
    next one takes its place. Completions are those of `Generator.generate`, whatever runs beside them (up to rounding for a
    bundle quantised in blocks, whose kernels round one row in another way than several).
    """

    def __init__(
        self,
        generator: Generator,
        *,
        max_rows: int | None = None,
        max_tokens: int | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        """Start the loop; `close` it, or use it as a context.

        Args:
            generator: The bundle to run.
            max_rows: Rows at the same time; None: the generator's `batch_size`.
            max_tokens: Bounds the caches; see `litseq.generation.Engine`.
            chunk_tokens: Tokens of prompts read in one step beside running rows: more is quicker for who enters, fewer
                for who runs.

        Raises:
            UsageError: for a bound that is no positive whole number.
        """
        self._generator = generator
        self._bounds = (
            generator.batch_size if max_rows is None else check_integer("max_rows", max_rows, 1),
            None if max_tokens is None else check_integer("max_tokens", max_tokens, 1),
            check_integer("chunk_tokens", chunk_tokens, 1),
        )
        self._arrived: deque[tuple[Pending, Request]] = deque()
        self._cancelled: deque[Pending] = deque()
        self._running: dict[int, Pending] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="litseq-scheduler", daemon=True)
        self._thread.start()

    def submit(self, prompt: PromptLike, *, priority: int = 0, stream: bool = False, **options: object) -> Pending:
        """Queue a request.

        Args:
            prompt: A text, or a list of token ids.
            priority: A lower number enters first; among equals, first come first served.
            stream: Make iterating over the pending request give its text while it comes.
            **options: See `litseq.generation.GenerationOptions`.

        Raises:
            UsageError: at once, for an unknown option or a prompt that does not fit the model.
            LitseqError: when the scheduler is closed or has failed.
        """
        # Here, where only who asks is told; in the loop it would end all requests.
        priority = check_integer("priority", priority)
        request, writer = self._generator._request(prompt, options, live=stream, priority=priority)
        pending = Pending(self, writer, stream)
        with self._wake:
            if self._closed:
                raise LitseqError("the scheduler is closed; make a new one") from self._failure
            self._arrived.append((pending, request))
            self._wake.notify()
        return pending

    def close(self) -> None:
        """End the loop; requests that are not done fail with one clear error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cancel(self, pending: Pending) -> None:
        with self._wake:
            self._cancelled.append(pending)
            self._wake.notify()

    def _loop(self) -> None:
        rows, tokens, chunk = self._bounds
        try:
            with self._generator._engine(rows, max_tokens=tokens, chunk_tokens=chunk) as engine:
                while self._take_in(engine):
                    for result in engine.step():
                        self._running.pop(result.ticket)._finish(result)
                    for pending in self._running.values():
                        pending._tell()
        except BaseException as error:
            self._failure = error
        finally:
            self._end()

    def _take_in(self, engine: Engine) -> bool:
        """Hand new requests and cancellations to the engine, and wait when there is nothing to do; False: closed."""
        with self._wake:
            while not self._closed and engine.idle and not self._arrived:
                self._cancelled.clear()
                self._wake.wait()
            if self._closed:
                return False
            arrived, self._arrived = self._arrived, deque()
            cancelled, self._cancelled = self._cancelled, deque()
        for pending, request in arrived:
            try:
                self._running[engine.submit(request)] = pending
            except UsageError as error:
                pending._fail(error)
        tickets = {pending: ticket for ticket, pending in self._running.items()} if cancelled else {}
        for pending in cancelled:
            if pending in tickets and (result := engine.cancel(tickets[pending])) is not None:
                self._running.pop(tickets[pending])._finish(result)
        return True

    def _end(self) -> None:
        with self._wake:
            self._closed = True
            left = [*self._running.values(), *(pending for pending, _ in self._arrived)]
            self._running.clear()
            self._arrived.clear()
        reason = "failed" if self._failure else "was closed before the request was done"
        for pending in left:
            error = LitseqError(f"the scheduler {reason}{f': {self._failure}' if self._failure else ''}")
            error.__cause__ = self._failure
            pending._fail(error)
