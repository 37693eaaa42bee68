"""Time a bundle's prompt pass and its steps over batch sizes and lengths."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

import litseq
from litseq.bench.limits import Limits, measure_limits
from litseq.bench.weights import GraphWeights, cache_bytes, cross_bytes, decoder_weights, read_weights
from litseq.bundle import Bundle, open_bundle
from litseq.errors import UsageError
from litseq.generation import Engine, GenerationOptions, Prompt, Request
from litseq.generation.packing import CALL_TOKENS
from litseq.runtime.graphs import Graphs
from litseq.runtime.processor import this_processor
from litseq.runtime.sessions import check_threads
from litseq.runtime.step_model import OrtStepModel

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """One batch size and length. Seconds are medians; a share compares with the machine's limit, 1 is all of it."""

    batch: int
    length: int
    """Tokens of a prompt; of a source for an encoder-decoder."""
    new_tokens: int
    prompt_seconds: float
    """Until every row has its first token; the encoder included."""
    encoder_seconds: float | None
    """Of the encoder alone."""
    prompt_tokens_per_second: float
    prompt_share: float
    """Of the limit for matrix products, which bounds the reading of a long prompt."""
    step_seconds: float
    tokens_per_second: float
    step_share: float
    """Of the roofline: the slower of reading weights and caches, and of multiplying."""
    step_bound: str
    """"memory" or "arithmetic": which of the two that is."""


@dataclass(frozen=True)
class BenchResult:
    """What `bench` found."""

    bundle: str
    architecture: str
    limits: Limits
    step_bytes: int
    """Bytes of weights that a step reads."""
    cache_bytes: int
    """Bytes of the caches that a step reads for every token of every row."""
    points: list[Point]
    cpu: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def bench(
    path: str | Path,
    *,
    batch_sizes: Sequence[int] = (1, 8, 32),
    lengths: Sequence[int] = (32, 512),
    new_tokens: int = 32,
    repeats: int = 3,
    threads: int | None = None,
    progress: Progress = lambda text: None,
) -> BenchResult:
    """Measure a bundle over batch sizes and lengths, and this machine's limits.

    Args:
        path: The bundle's directory.
        batch_sizes: Rows at the same time.
        lengths: Tokens of the prompts, or of the sources of an encoder-decoder; those that leave no room for
            `new_tokens` are cut to what fits.
        new_tokens: Steps to time, at least 2.
        repeats: Rounds; medians are reported.
        threads: Threads of a call; None: one a core.
        progress: Told what is measured next.

    Raises:
        UsageError: a number is out of range.
        BundleError: the bundle is missing, damaged or foreign.
    """
    for name, values, least in (("batch size", batch_sizes, 1), ("length", lengths, 1), ("repeats", [repeats], 1)):
        if not values or any(value < least for value in values):
            raise UsageError(f"{name} is {list(values)}, expected whole numbers of at least {least}")
    if new_tokens < 2:
        raise UsageError(f"new_tokens is {new_tokens}, expected at least 2: the first token belongs to the prompt")
    count = check_threads(threads)
    bundle = open_bundle(path)
    progress("the machine's limits")
    limits = measure_limits(count)
    timer = _Timer(bundle, limits, new_tokens, repeats)
    points = []
    for length in timer.fitting(lengths):
        for batch in batch_sizes:
            progress(f"batch {batch}, length {length}")
            points.append(timer.point(batch, length))
    return BenchResult(
        bundle=str(path), architecture=bundle.manifest.architecture, limits=limits, step_bytes=timer.decoder.bytes,
        cache_bytes=cache_bytes(bundle), points=points, cpu=this_processor().name,
        versions={"litseq": litseq.__version__, "onnxruntime": onnxruntime.__version__},
    )  # fmt: skip


class _Timer:
    """A loaded bundle and what to divide its times by."""

    def __init__(self, bundle: Bundle, limits: Limits, new_tokens: int, repeats: int) -> None:
        manifest = bundle.manifest
        self.bundle, self.limits, self.new_tokens, self.repeats = bundle, limits, new_tokens, repeats
        self.graphs = Graphs(bundle, limits.threads)
        self.model = OrtStepModel(self.graphs)
        self.decoder = decoder_weights(bundle)
        self.encoder = read_weights(bundle.file(manifest.encoder.file)) if manifest.encoder else None
        start = manifest.prompt_format.get("start_ids")
        self.start = list(start) if isinstance(start, list) and start else [0]

    def fitting(self, lengths: Sequence[int]) -> list[int]:
        """The lengths that the model takes, each once."""
        most = self.model.max_length - (0 if self.encoder else self.new_tokens)
        if most < 1 or self.model.max_length < len(self.start) + self.new_tokens:
            raise UsageError(
                f"new_tokens is {self.new_tokens}, and the model takes {self.model.max_length} tokens with the prompt; "
                "measure fewer"
            )
        return sorted({min(length, most) for length in lengths})

    def point(self, batch: int, length: int) -> Point:
        """Measure one batch size and length."""
        chance = random.Random(length)
        vocabulary = self.bundle.manifest.model.vocab_size
        ids = [[chance.randrange(vocabulary) for _ in range(length)] for _ in range(batch)]
        self._generate(ids, 2)
        prompts: list[float] = []
        steps: list[float] = []
        for _ in range(self.repeats):
            reading = self._generate(ids, 1)
            prompts.append(sum(seconds for _, seconds in reading))
            # Rows that are read first generate beside the reading of the others: that much more in all.
            run = self._generate(ids, self.new_tokens + len(reading))
            most = max(rows for rows, _ in run)
            steps += [seconds for rows, seconds in run if rows == most]
        prompt, step = statistics.median(prompts), statistics.median(steps)
        encoder = statistics.median(self._encode(ids) for _ in range(self.repeats)) if self.encoder else None
        best, bound = self._best_step(batch, length)
        return Point(
            batch, length, self.new_tokens, prompt, encoder, batch * length / prompt,
            self._best_prompt(batch, length) / (prompt if encoder is None else encoder),
            step, batch / step, best / step, bound,
        )  # fmt: skip

    def _generate(self, ids: list[list[int]], count: int) -> list[tuple[int, float]]:
        """Generate `count` tokens a row, end tokens or not: rows and seconds of each step, 0 rows where prompts are read."""
        options = GenerationOptions(max_new_tokens=count)
        found: list[tuple[int, float]] = []
        begin = time.perf_counter()
        engine = Engine(self.model, [], max_rows=len(ids), chunk_tokens=CALL_TOKENS)
        for index, row in enumerate(ids):
            prompt = Prompt(self.start, row) if self.encoder else Prompt(row)
            engine.submit(Request(prompt, options, index))
        while not engine.idle:
            rows = 0 if engine.waiting or engine.reading else engine.running
            engine.step()
            end = time.perf_counter()
            found.append((rows, end - begin))
            begin = end
        self.model.reset()
        return found

    def _encode(self, ids: list[list[int]]) -> float:
        block, batch = np.array(ids, np.int64), len(ids)
        cross = {spec.name: np.empty(spec.shape(batch, block.shape[1]), spec.dtype) for spec in self.graphs.cross_specs}
        begin = time.perf_counter()
        self.graphs.encode(block, np.full(batch, block.shape[1], np.int32), cross)
        return time.perf_counter() - begin

    def _best_prompt(self, batch: int, length: int) -> float:
        """Seconds that reading the prompts takes at least: every token times every matrix, or reading them once.

        Logits are computed of the last token of a prompt alone.
        """
        weights = self.encoder or self.decoder
        return max(weights.bytes / self.limits.bandwidth, self._multiply(weights, batch * length, batch))

    def _best_step(self, batch: int, length: int) -> tuple[float, str]:
        """Seconds that a step takes at least, and why."""
        middle = self.new_tokens / 2
        if self.encoder:
            tokens = cache_bytes(self.bundle) * middle + cross_bytes(self.bundle) * length
        else:
            tokens = cache_bytes(self.bundle) * (length + middle)
        memory = (self.decoder.bytes + batch * tokens) / self.limits.bandwidth
        arithmetic = self._multiply(self.decoder, batch, batch)
        return max(memory, arithmetic), "memory" if memory >= arithmetic else "arithmetic"

    def _multiply(self, weights: GraphWeights, tokens: int, wanted: int) -> float:
        """Seconds of the products of so many tokens, of which the logits of so many are wanted."""
        speed = self.limits.integer_operations if weights.integer else self.limits.float_operations
        return 2 * (weights.multiplied * tokens + weights.head * wanted) / speed
