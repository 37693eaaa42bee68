"""`Generator`: a bundle that generates text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from litseq.bundle import Bundle, Manifest, open_bundle
from litseq.errors import BundleError, LitseqError, UsageError
from litseq.generation import Engine, GenerationOptions, PrefixStore, Request, checked
from litseq.runtime.chat import ChatPrompt, ChatReader
from litseq.runtime.completion import Completion, TargetScore
from litseq.runtime.graphs import Graphs
from litseq.runtime.guessing import Guessing, check_draft
from litseq.runtime.integers import check_integer
from litseq.runtime.loops import Loop, Loops, Work
from litseq.runtime.offline import IterableSource, OfflineRun, Source
from litseq.runtime.output import OutputText
from litseq.runtime.prompts import PromptLike, PromptReader, check_list
from litseq.runtime.scoring import score_targets
from litseq.runtime.sessions import check_threads
from litseq.runtime.step_model import OrtStepModel
from litseq.runtime.tokenizer import load_tokenizer
from litseq.text.messages import MessageLike

REUSE_BYTES = 256 * 2**20
_KEPT_MODELS = 4
_KEPT_BYTES = 256 * 2**20
"""Caches kept between calls: enough that short calls need no fresh memory, no more than a server can forget about."""


class Generator:
    """A bundle, loaded and ready to generate. Safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        batch_size: int = 32,
        spinning: bool = True,
        reuse_bytes: int = REUSE_BYTES,
        draft: Generator | None = None,
    ) -> None:
        """Load the sessions of an open bundle; `from_bundle` opens one."""
        self.threads = check_threads(threads)
        self.batch_size = _check_batch_size(batch_size)
        self.manifest: Manifest = bundle.manifest
        self.tokenizer = load_tokenizer(bundle)
        self._chat = ChatReader(bundle.manifest, self.tokenizer)
        stops = self._chat.stop_ids or (self.tokenizer.eos_id,)
        self._reader = PromptReader(bundle.manifest, self.tokenizer, end_id=stops[0])
        self._defaults = _default_options(bundle.manifest)
        self._end_tokens = tuple({self.tokenizer.eos_id: None} | dict.fromkeys(stops))
        try:
            self._graphs = Graphs(bundle, self.threads, spinning=spinning)
        finally:
            bundle.ensure_sound()  # weights that are damaged explain why a graph did not load
        if reuse_bytes:
            reuse_bytes = check_integer(
                "reuse_bytes", reuse_bytes, 0, expected="a whole number of bytes, or 0 to keep nothing"
            )
        self._reuse = PrefixStore(reuse_bytes) if reuse_bytes else None
        self._path = bundle.path.resolve()
        self._settings: dict[str, Any] = {
            "threads": self.threads,
            "batch_size": self.batch_size,
            "spinning": spinning,
            "reuse_bytes": reuse_bytes,
            "draft": draft,
        }
        self._guessing = Guessing(bundle.manifest, draft)
        if draft is not None:
            check_draft(self, draft)
        self._free: list[OrtStepModel] = []
        self._lock = threading.Lock()

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        batch_size: int = 32,
        verify: bool = True,
        spinning: bool = True,
        reuse_bytes: int = REUSE_BYTES,
        draft: str | Path | Generator | None = None,
    ) -> Generator:
        """Open a bundle, check it and load it.

        Args:
            path: The bundle's directory.
            threads: Threads for the work inside a call; None: one a core this process may use.
            batch_size: Rows that run at the same time; it bounds the memory of the caches.
            verify: Check the hashes of all files, of large weights while they load; see `litseq.bundle.open_bundle`.
            spinning: Let idle threads wait busily for the next step. Turn it off where other work needs the cores.
            reuse_bytes: Memory for what a decoder-only model made of earlier prompts and its answers to them, so that a
                prompt that begins as one of them (the next turn of a chat) reads only what is new. What `stream`,
                `chat` and a `generate` of a single prompt read is kept, the least recently used goes first. 0: keep
                nothing. Prompts of one call share a common beginning in any case.
            draft: A smaller bundle of the same architecture and tokenizer, or its generator. It guesses what this one
                says, where that saves time; it changes no greedy output.

        Raises:
            BundleError: when the bundle is missing, damaged, foreign or newer than this litseq.
            UsageError: when the draft does not fit the bundle.
        """
        if draft is not None and not isinstance(draft, Generator):
            # Its threads must not spin beside those of the large model, which take over after a few of its steps.
            draft = cls.from_bundle(draft, threads=threads, verify=verify, spinning=False)
        bundle = open_bundle(path, verify=verify, background=True)
        return cls(
            bundle, threads=threads, batch_size=batch_size, spinning=spinning, reuse_bytes=reuse_bytes, draft=draft
        )

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as its path and settings: who unpickles it, a spawned worker for one, loads the bundle again."""
        return _load_again, (type(self), str(self._path), self._settings)

    def generate(
        self, prompts: Sequence[PromptLike], *, batch_size: int | None = None, workers: int = 1, **options: object
    ) -> list[Completion]:
        """One completion a prompt, in the order of `prompts`; `num_return_sequences` of them side by side, best first.

        A completion does not depend on what else is in `prompts`, nor on `batch_size`; with a `seed`, sampling depends
        on the seed and on the place in `prompts`.

        Args:
            prompts: Texts, or lists of token ids.
            batch_size: In place of the generator's own.
            workers: Loops that run at the same time, each with `batch_size` rows and the generator's threads. For many
                prompts, one thread and a worker for each core are quicker than one worker with a thread for each core.
            **options: See `litseq.generation.GenerationOptions`.

        Raises:
            UsageError: for an unknown option, or a prompt that does not fit the model.
        """
        check_list(prompts, "prompts")
        chosen = self._options(options)
        rows = _check_batch_size(self.batch_size if batch_size is None else batch_size)
        read = self._reader.read_batch(prompts, prefix=chosen.prefix)
        if wrong := next((prompt for prompt in read if isinstance(prompt, LitseqError)), None):
            raise wrong
        count = len(read)
        total = max(1, count * _rows_each(chosen))
        rows = min(rows, total)
        workers = min(_check_workers(workers), -(-total // rows))
        run = self._offline(IterableSource(read), chosen, rows, workers, count == 1, window=count, block=count)
        return list(_completions(run))

    def generate_iterable(
        self,
        prompts: Iterable[PromptLike],
        *,
        window: int | None = None,
        batch_size: int | None = None,
        workers: int = 1,
        **options: Any,
    ) -> Iterator[Completion]:
        """`generate` for prompts without end: completions in the order of `prompts`, as they become ready, in bounded memory.

        Prompts are read ahead, so that those of similar length share calls and the batch stays full. An error of
        `prompts`, or a prompt that does not fit the model, is raised behind the completions of all prompts before it.

        Args:
            prompts: Texts, or lists of token ids; `next` is called in the caller's thread.
            window: Prompts in work at most, from the one whose completion comes next to the last that was read; None:
                4096, or 64 batches where that is more. It bounds the memory.
            batch_size: Rows that run at the same time, in place of the generator's own.
            workers: See `generate`.
            **options: See `litseq.generation.GenerationOptions`.

        Raises:
            UsageError: at once, for an unknown option.
        """
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
            raise UsageError(f"prompts is of type {type(prompts).__name__}, expected an iterable of prompts")
        run = self.offline(IterableSource(prompts), window=window, batch_size=batch_size, workers=workers, **options)
        return _completions(run)

    def offline(
        self,
        source: Source,
        *,
        window: int | None = None,
        batch_size: int | None = None,
        workers: int = 1,
        start: int = 0,
        name: Callable[[int], str] = "prompt {}".format,
        on_step: Callable[[], object] | None = None,
        **options: Any,
    ) -> OfflineRun:
        """What `generate_iterable` is made of, for programs that handle the errors of single prompts themselves.

        See `OfflineRun` for the arguments and for what it gives.
        """
        if window is not None:
            window = check_integer("window", window, 1)
        rows = _check_batch_size(self.batch_size if batch_size is None else batch_size)
        chosen = self._options(options)
        workers = _check_workers(workers)
        return self._offline(source, chosen, rows, workers, window=window, start=start, name=name, on_step=on_step)

    def stream(self, prompt: PromptLike, **options: object) -> Iterator[str]:
        """The completion of one prompt in pieces, each as soon as it is certain.

        The pieces together are the text that `generate` gives. A piece never ends inside a character, and never holds
        the beginning of a stop string that then appears.

        Args:
            prompt: A text, or a list of token ids.
            **options: See `litseq.generation.GenerationOptions`.

        Raises:
            UsageError: at once, for an unknown option or a prompt that does not fit the model.
        """
        return self._stream(*self._request(prompt, options, live=True))

    def chat(self, messages: Sequence[MessageLike], **options: object) -> Completion:
        """The answer to the question at the end of a conversation.

        Where the conversation is too long for the model, its oldest whole turns are left out, as in training;
        `chat_prompt` says how many.

        Args:
            messages: The conversation: `{"role": ..., "content": ...}` or `litseq.text.Message`, a system message or
                none, then the user and the assistant in turn.
            **options: See `litseq.generation.GenerationOptions`.

        Raises:
            UsageError: for an unknown option, what is no conversation, or a bundle that is no chatbot.
        """
        ids = self.chat_prompt(messages, **options).token_ids
        return self.generate([ids], batch_size=None, workers=1, **options)[0]

    def stream_chat(self, messages: Sequence[MessageLike], **options: object) -> Iterator[str]:
        """`chat` in pieces, as `stream` gives them."""
        return self.stream(self.chat_prompt(messages, **options).token_ids, **options)

    def chat_prompt(self, messages: Sequence[MessageLike], **options: object) -> ChatPrompt:
        """What the model reads of a conversation before it answers; the same arguments as `chat`."""
        return self._chat.read(messages, self._options(options).max_new_tokens)

    def score(self, prompts: Sequence[PromptLike], targets: Sequence[PromptLike]) -> list[TargetScore]:
        """How likely the model finds each target as the output for its prompt.

        Args:
            prompts: Texts, or lists of token ids.
            targets: Texts, whose end token is scored too, or lists of token ids, taken as they are.
        """
        check_list(prompts, "prompts")
        check_list(targets, "targets")
        if len(prompts) != len(targets):
            raise UsageError(f"score got {len(prompts)} prompts and {len(targets)} targets, expected as many of each")
        read = [self._reader.read(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        wanted = [self._reader.read_target(t, read[i], f"target {i}") for i, t in enumerate(targets)]
        log_probs = score_targets(self._graphs, read, wanted)
        return [TargetScore(float(sum(lp)), ids, lp) for ids, lp in zip(wanted, log_probs, strict=True)]

    def _stream(self, request: Request, writer: OutputText) -> Iterator[str]:
        with self._engine(1) as engine:
            engine.submit(request)
            while not engine.idle:
                checked(engine.step())
                if piece := writer.pop():
                    yield piece
        if piece := writer.pop(last=True):
            yield piece

    def _request(
        self, prompt: PromptLike, given: Mapping[str, object], *, live: bool, priority: int = 0
    ) -> tuple[Request, OutputText]:
        """A request for an engine, and what makes text of its result; with `live` also while it comes."""
        chosen = self._options(given)
        if live and chosen.num_return_sequences > 1:
            raise UsageError("a stream is one text; leave out num_return_sequences, or do not stream")
        writer = OutputText(self.tokenizer, chosen, live=live, keep=True)
        return writer.request(self._reader.read(prompt, prefix=chosen.prefix), 0, priority), writer

    def _options(self, given: Mapping[str, object]) -> GenerationOptions:
        chosen = GenerationOptions.from_mapping(given, self._defaults)
        if chosen.prompt_lookup and not self._guessing.possible:
            raise UsageError(
                "prompt_lookup is True, and the bundle has a recurrent state, which cannot go back behind a wrong guess"
            )
        return replace(chosen, bad_words=self._reader.read_words(chosen.bad_words)) if chosen.bad_words else chosen

    def _offline(
        self,
        source: Source,
        options: GenerationOptions,
        rows: int,
        workers: int,
        keep: bool = False,
        **more: Any,
    ) -> OfflineRun:
        work = self._loops(options, rows, workers, keep)
        return OfflineRun(source, work, self._reader, options, rows=rows * workers, **more)

    @contextmanager
    def _loops(self, options: GenerationOptions, rows: int, workers: int, keep: bool) -> Iterator[Work]:
        """So many engines, each with as many rows."""
        admit_at = rows // 4
        with ExitStack() as stack:
            engines = [stack.enter_context(self._engine(rows, admit_at=admit_at)) for _ in range(workers)]
            loops = [Loop(engine, lambda: OutputText(self.tokenizer, options, keep=keep)) for engine in engines]
            # A few more than its rows take, so that those that come free are filled at once.
            most_jobs = -(-(rows + max(1, admit_at)) // _rows_each(options))
            work: Work = loops[0] if workers == 1 else Loops(loops, most_jobs)
            try:
                yield work
            finally:
                work.stop()

    @contextmanager
    def _engine(self, max_rows: int, **bounds: Any) -> Iterator[Engine]:
        """A loop over a step model that nobody else uses; who may guess for it comes along."""
        guessing = self._guessing
        with ExitStack() as stack:
            model = stack.enter_context(self._model())
            model.bound(bounds.get("max_tokens"))
            draft = stack.enter_context(guessing.draft._model()) if guessing.draft is not None else None
            drafters = guessing.drafters(draft)
            yield Engine(
                model,
                self._end_tokens,
                max_rows=max_rows,
                reuse=self._reuse,
                drafters=drafters,
                costs=guessing.costs,
                **bounds,
            )

    @contextmanager
    def _model(self) -> Iterator[OrtStepModel]:
        """A step model that nobody else uses; its memory serves the next call again."""
        with self._lock:
            model = self._free.pop() if self._free else OrtStepModel(self._graphs)
        try:
            yield model
        finally:
            model.reset()
            with self._lock:
                if len(self._free) < _KEPT_MODELS and model.nbytes <= _KEPT_BYTES:
                    self._free.append(model)


def _load_again(kind: type[Generator], path: str, settings: dict[str, Any]) -> Generator:
    return kind.from_bundle(path, **settings)


def _default_options(manifest: Manifest) -> GenerationOptions:
    try:
        return GenerationOptions.from_mapping(manifest.generation)
    except UsageError as error:
        raise BundleError(f"manifest.json is not usable: generation: {error}") from error


def _completions(run: OfflineRun) -> Iterator[Completion]:
    # Closed here, at once: an exception may keep what is left of the run, its threads included, for long.
    with closing(iter(run)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, LitseqError):
                raise outcome
            yield from outcome


def _rows_each(options: GenerationOptions) -> int:
    """Rows of a batch that one prompt takes."""
    return max(options.num_beams, options.num_return_sequences)


def _check_batch_size(batch_size: int) -> int:
    return check_integer("batch_size", batch_size, 1, 4096)


def _check_workers(workers: int) -> int:
    return check_integer("workers", workers, 1, 1024)
