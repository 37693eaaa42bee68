"""Does onnxruntime compute what torch computes? Asked at every export, at shapes the tracer has not seen.

torch reads every row whole and alone, without cache or padding; onnxruntime reads ragged batches in chunks with its cache
in place. What agrees then agrees for the right reasons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from litseq.bundle import Manifest
from litseq.errors import ExportError
from litseq.export.reference import Reference, Row, compare_logits
from litseq.quantize import QuantizationReport

# Rows as (source length, prompt length), and the chunks in which the decoder reads them. No size equals a traced one.
CASES: tuple[tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]], ...] = (
    ("1 row, past 0, then single tokens", ((9, 1),), (1, 1, 1, 1, 1, 1)),
    ("1 row, odd prompt, then single tokens", ((1, 11),), (11, 1, 1, 1, 1)),
    ("2 rows, ragged, then single tokens", ((6, 4), (11, 9)), (9, 1, 1, 1)),
    ("7 rows, ragged, then single tokens", ((2, 1), (15, 8), (4, 2), (8, 6), (1, 3), (10, 12), (17, 7)), (12, 1, 1)),
    ("4 rows, ragged, in chunks with a past", ((5, 10), (8, 17), (2, 6), (12, 14)), (4, 9, 6, 1, 1)),
)
GREEDY_STEPS = 6
LONG_LOGITS, LONG_ROW = 2**24, 2048
"""Logits and tokens of the longest row at most: 64 MiB, and attention scores of tens of MiB a head."""


@dataclass
class ParityReport:
    """What a parity check found."""

    cases: list[dict[str, Any]]
    """Each shape that was run, with its largest error and its share of equal greedy tokens."""
    max_error: float
    """Largest difference of two logits, over the larger of 1 and their root mean square; see `compare_logits`."""
    token_agreement: float
    """Share of positions whose best token is the same; ties within the tolerance count as the same."""
    positions: int
    tolerance: float
    quantization: QuantizationReport | None = None
    """What quantising the verified graphs costs, when that was asked for."""

    @property
    def passed(self) -> bool:
        """Whether the bundle may be written."""
        return self.max_error <= self.tolerance and self.token_agreement == 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the manifest."""
        return {
            "reference": f"torch {torch.__version__}, whole sequences without cache, fp32",
            "runtime": f"onnxruntime {onnxruntime.__version__}, CPU",
            "max_error": self.max_error,
            "tolerance": self.tolerance,
            "greedy_token_agreement": self.token_agreement,
            "positions": self.positions,
            "cases": self.cases,
            "passed": self.passed,
        }


class GraphRunner:
    """Runs the graphs of a draft bundle by feeds and fetches, caches in place."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.manifest = manifest
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self.decoder = onnxruntime.InferenceSession(directory / manifest.decoder.file, options)
            self.encoder = (
                onnxruntime.InferenceSession(directory / manifest.encoder.file, options) if manifest.encoder else None
            )
        except Exception as error:  # onnxruntime's errors share no base
            reason = " ".join(str(error).split())[:300]
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} cannot load the exported graph: {reason}"
            ) from error

    def logits(self, rows: Sequence[Row], chunks: Sequence[int], whole_prompt: bool) -> list[NDArray[np.float32]]:
        """Logits of every position of every row, read in chunks of at most these lengths; a `whole_prompt` is one."""
        cross = self._encode(rows) if self.encoder is not None else {}
        if whole_prompt:
            chunks = (0, *(1 for _ in range(max(len(row.continuation) for row in rows))))
        capacity = max(len(row.tokens) for row in rows) + max(*chunks, *(len(row.prompt) for row in rows))
        cache = {
            tensor.past: np.full(self._shape(tensor.dims, len(rows), capacity), 0, np.float32)
            for tensor in self.manifest.decoder.cache
        }
        done = np.zeros(len(rows), np.int32)
        found: list[list[NDArray[np.float32]]] = [[] for _ in rows]
        for place, chunk in enumerate(chunks):
            new = np.array([min(chunk, len(row.tokens) - d) for row, d in zip(rows, done, strict=True)], np.int32)
            if whole_prompt and place == 0:
                new = np.array([len(row.prompt) for row in rows], np.int32)
            active = np.flatnonzero(new > 0)
            if not len(active):
                continue
            prefix = new if whole_prompt and place == 0 else np.zeros_like(new)
            some = self._call([rows[int(i)] for i in active], active, done, new, prefix, cache, cross)
            for i, values in zip(active, some, strict=True):
                found[i].append(values)
            done += new
        return [np.concatenate(parts) for parts in found]

    def _call(
        self,
        rows: Sequence[Row],
        active: NDArray[Any],
        done: NDArray[np.int32],
        new: NDArray[np.int32],
        prefix: NDArray[np.int32],
        cache: dict[str, NDArray[np.float32]],
        cross: dict[str, NDArray[Any]],
    ) -> list[NDArray[np.float32]]:
        done, new = done[active], new[active]
        width = int(new.max())
        ids = np.zeros((len(rows), width), np.int64)
        for line, row, start, count in zip(ids, rows, done, new, strict=True):
            line[:count] = row.tokens[start : start + count]
        wanted = [b * width + t for b, count in enumerate(new) for t in range(count)]
        roles: dict[str, NDArray[Any]] = {
            "input_ids": ids,
            "new_lengths": new,
            "last_positions": done + new - 1,
            "total_length": np.array((done + new).max(), np.int32),
            "logit_rows": np.array(wanted, np.int64),
            "prefix_lengths": prefix[active],
            "top_k": np.array(0, np.int64),
        }
        names = self.manifest.decoder
        feeds: dict[str, NDArray[Any]] = {
            names.inputs[role]: value for role, value in roles.items() if role in names.inputs
        }
        feeds |= {name: value[active] for name, value in cross.items()}
        feeds |= {name: value[active] for name, value in cache.items()}
        presents = [tensor.present for tensor in names.cache]
        logits, *present = _run(self.decoder, [names.outputs["logits"], *presents], feeds)
        for tensor, value in zip(names.cache, present, strict=True):
            if value.shape != feeds[tensor.past].shape:
                raise ExportError(
                    f"{tensor.present} comes out as {list(value.shape)}, {tensor.past} went in as "
                    f"{list(feeds[tensor.past].shape)}: a cache keeps its shape, write new keys and values into it with "
                    "litseq.nn.ops.write_cache"
                )
            cache[tensor.past][active] = value
        return np.split(logits, np.cumsum(new)[:-1])

    def _encode(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        assert self.encoder is not None and self.manifest.encoder is not None
        sources = [row.source or () for row in rows]
        lengths = np.array([len(source) for source in sources], np.int32)
        ids = np.zeros((len(rows), int(lengths.max())), np.int64)
        for line, source in zip(ids, sources, strict=True):
            line[: len(source)] = source
        names = self.manifest.encoder
        feeds: dict[str, NDArray[Any]] = {names.inputs["input_ids"]: ids, names.inputs["lengths"]: lengths}
        outputs = _run(self.encoder, list(names.outputs.values()), feeds)
        cross = dict(zip(names.outputs, outputs, strict=True))
        return cross | {self.manifest.decoder.inputs["source_lengths"]: lengths}

    @staticmethod
    def _shape(dims: Sequence[int | str], rows: int, capacity: int) -> list[int]:
        return [{"batch": rows, "capacity": capacity}.get(d, 0) if isinstance(d, str) else d for d in dims]


def _run(session: onnxruntime.InferenceSession, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> list[Any]:
    try:
        return list(session.run(outputs, feeds))
    except Exception as error:  # onnxruntime's errors share no base
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in list(feeds.items())[:3])
        reason = " ".join(str(error).split())[:300]
        raise ExportError(
            f"onnxruntime {onnxruntime.__version__} cannot run the exported graph at {shapes}: {reason}"
        ) from error


def check_parity(reference: Reference, runner: GraphRunner, tolerance: float, seed: int = 0) -> ParityReport:
    """Compare logits and greedy tokens over `CASES`.

    Args:
        reference: the torch side.
        runner: the onnxruntime side.
        tolerance: largest error of a logit, relative to the larger of 1 and the root mean square of the logits.
        seed: of the random tokens.
    """
    generator = np.random.default_rng(seed)
    whole = runner.manifest.prompt_pass == "whole"
    vocab, limit = runner.manifest.model.vocab_size, runner.manifest.model.max_seq_len
    cases, worst, equal, total = [], 0.0, 0, 0
    for name, shapes, chunks in (*CASES, _long_case(vocab, limit)):
        rows = [_row(reference, generator, shape, vocab, limit) for shape in shapes]
        longest = max(len(row.tokens) for row in rows)
        chunks = (*chunks, *(1 for _ in range(longest)))
        ours = runner.logits(rows, chunks, whole)
        error, same, count = 0.0, 0, 0
        for row, got in zip(rows, ours, strict=True):
            expected = reference.logits(row)[-len(got) :]
            difference, scale = compare_logits(expected, got)
            error = max(error, difference)
            same += int(_same_choice(expected, got, tolerance * scale).sum())
            count += len(got)
        cases.append({"case": name, "max_error": error, "positions": count, "same_tokens": same})
        worst, equal, total = max(worst, error), equal + same, total + count
    return ParityReport(cases, worst, equal / total, total, tolerance)


def _long_case(vocab: int, limit: int) -> tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]]:
    """As long a row as the model takes, within bounds: where a window of an attention ends, say, shows only there."""
    length = min(limit, LONG_ROW, max(64, LONG_LOGITS // vocab))
    prompt = max(1, length - GREEDY_STEPS)
    chunks = prompt // 2, prompt - prompt // 2
    return f"1 row of {length} tokens, in two chunks, then single tokens", ((length, prompt),), chunks


def _same_choice(expected: NDArray[np.float32], got: NDArray[np.float32], tie: float) -> NDArray[np.bool_]:
    rows = np.arange(len(expected))
    return expected[rows, got.argmax(-1)] >= expected.max(-1) - tie


def _row(reference: Reference, generator: np.random.Generator, shape: tuple[int, int], vocab: int, limit: int) -> Row:
    source_length, prompt_length = (max(1, min(length, limit - 1)) for length in shape)
    source = generator.integers(0, vocab, source_length).tolist() if reference.encoder is not None else None
    prompt = generator.integers(0, vocab, prompt_length).tolist()
    return reference.greedy(source, prompt, min(GREEDY_STEPS, limit - prompt_length))
