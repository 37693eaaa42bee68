"""What the inputs of each product look like: the sum of x x^T over calibration rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from litseq.bundle import Manifest
from litseq.quantize.plan import Weight
from litseq.quantize.runner import Row, Runner

MEMORY = 2**30
"""Bytes of the matrices held at a time; a large model is run through several times."""

Inputs = frozenset[tuple[str, str]]


def hessians(
    directory: Path,
    manifest: Manifest,
    models: dict[str, ir.Model],
    weights: Sequence[Weight],
    rows: Sequence[Row],
    threads: int,
    scratch: Path,
) -> Iterator[tuple[NDArray[np.float32], list[Weight]]]:
    """Each matrix [K, K] with the weights whose products read those inputs.

    Inputs inside the branches of an `If` cannot be shown, so a weight that is read there alone is left out.
    """
    by_inputs: dict[Inputs, list[Weight]] = {}
    outside = {value for model in models.values() for node in model.graph for value in node.outputs}
    for weight in weights:
        visible = frozenset(
            (file, str(linear.activation.name)) for file, linear in weight.linears if linear.activation in outside
        )
        if visible:
            by_inputs.setdefault(visible, []).append(weight)
    for part in _parts(by_inputs):
        sums = _collect(directory, manifest, part, by_inputs, rows, threads, scratch)
        for inputs in part:
            yield sums.pop(inputs), by_inputs[inputs]


def _parts(by_inputs: dict[Inputs, list[Weight]]) -> Iterator[list[Inputs]]:
    part: list[Inputs] = []
    size = 0
    for inputs, weights in by_inputs.items():
        needed = 4 * weights[0].width ** 2
        if part and size + needed > MEMORY:
            yield part
            part, size = [], 0
        part.append(inputs)
        size += needed
    if part:
        yield part


def _collect(
    directory: Path,
    manifest: Manifest,
    part: Iterable[Inputs],
    by_inputs: dict[Inputs, list[Weight]],
    rows: Sequence[Row],
    threads: int,
    scratch: Path,
) -> dict[Inputs, NDArray[np.float32]]:
    sums = {inputs: np.zeros((by_inputs[inputs][0].width,) * 2, np.float32) for inputs in part}
    shown: dict[str, list[str]] = {}
    for file, name in sorted({one for inputs in sums for one in inputs}):
        shown.setdefault(file, []).append(name)
    with tempfile.TemporaryDirectory(dir=scratch) as inner:
        runner = Runner(directory, manifest, threads, shown, Path(inner))
        for row in rows:
            _, inside = runner.run(row)
            for inputs, total in sums.items():
                for one in inputs:
                    values = inside[one].reshape(-1, total.shape[0])
                    total += values.T @ values
    return sums
