"""Engines at work on prompts that have places: one in the caller's thread, or several, each in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from litseq.errors import LitseqError
from litseq.generation import Engine, Prompt, checked
from litseq.runtime.completion import Completion
from litseq.runtime.output import OutputText

Outcome = list[Completion] | LitseqError
"""What becomes of a prompt: its completions, best first, or why there are none."""

_WAIT_SECONDS = 0.1  # until whoever collects looks after something else


class Work(Protocol):
    """Prompts in, outcomes out, in any order."""

    def submit(self, prompts: Sequence[tuple[int, Prompt]]) -> None:
        """Take prompts with their places."""

    def collect(self) -> list[tuple[int, Outcome]]:
        """Go on, or wait a little while others do; what is done, with its places."""

    def stop(self) -> None:
        """Let go of everything."""


class Loop:
    """One engine, which advances when somebody collects."""

    def __init__(self, engine: Engine, new_text: Callable[[], OutputText]) -> None:
        """Run `engine`; `new_text` makes what turns the tokens of one prompt to text."""
        self._engine = engine
        self._new_text = new_text
        self._jobs: dict[int, tuple[int, OutputText]] = {}
        self._refused: list[tuple[int, Outcome]] = []

    @property
    def jobs(self) -> int:
        """Prompts in work."""
        return len(self._jobs)

    def submit(self, prompts: Sequence[tuple[int, Prompt]]) -> None:
        """See `Work.submit`."""
        for place, prompt in prompts:
            text = self._new_text()
            try:
                self._jobs[self._engine.submit(text.request(prompt, place))] = place, text
            except LitseqError as error:
                self._refused.append((place, error))

    def collect(self) -> list[tuple[int, Outcome]]:
        """One step of the engine; see `Work.collect`."""
        done, self._refused = self._refused, []
        for result in checked(self._engine.step()):
            place, text = self._jobs.pop(result.ticket)
            done.append((place, text.completions(result)))
        return done

    def stop(self) -> None:
        """See `Work.stop`."""


class Loops:
    """Several loops, each in a thread, that take prompts from one queue whenever they have room.

    onnxruntime lets go of the interpreter's lock while it computes, so that loops of one thread each keep as many
    cores busy, and need not meet after every operation as the threads of one loop do.
    """

    def __init__(self, loops: Sequence[Loop], most_jobs: int) -> None:
        """Run `loops`, each with at most `most_jobs` prompts at a time."""
        self._loops = loops
        self._most_jobs = most_jobs
        self._queue: deque[tuple[int, Prompt]] = deque()
        self._done: list[tuple[int, Outcome]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._failure: BaseException | None = None
        # Daemons: a program may end while nobody takes the outcomes.
        self._threads = [threading.Thread(target=self._run, args=(loop,), daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def submit(self, prompts: Sequence[tuple[int, Prompt]]) -> None:
        """See `Work.submit`."""
        with self._changed:
            self._queue.extend(prompts)
            self._changed.notify_all()

    def collect(self) -> list[tuple[int, Outcome]]:
        """See `Work.collect`."""
        with self._changed:
            if not self._done and self._failure is None:
                self._changed.wait(_WAIT_SECONDS)
            if self._failure is not None:
                raise self._failure
            done, self._done = self._done, []
            return done

    def stop(self) -> None:
        """See `Work.stop`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, loop: Loop) -> None:
        try:
            while self._take(loop):
                if done := loop.collect():
                    with self._changed:
                        self._done += done
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _take(self, loop: Loop) -> bool:
        """Let a loop have prompts, or wait until there are some; False when all is over."""
        with self._changed:
            while not (self._queue or loop.jobs or self._stopping):
                self._changed.wait()
            if self._stopping:
                return False
            # Of few prompts a fair share: who comes first would leave nothing to the others.
            share = -(-(len(self._queue) + sum(other.jobs for other in self._loops)) // len(self._loops))
            room = min(self._most_jobs, share) - loop.jobs
            # Within the lock, since others count the jobs.
            loop.submit([self._queue.popleft() for _ in range(min(room, len(self._queue)))])
        return True
