"""Runs the graphs of a bundle over whole sequences, one row at a time, and can show what is inside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from litseq.bundle import Manifest
from litseq.runtime.sessions import create_session

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A sequence: what the encoder reads, and what the decoder reads, of which the first `prompt` tokens are given."""

    source: tuple[int, ...] | None
    tokens: tuple[int, ...]
    prompt: int = 1


class Runner:
    """The sessions of a directory with graphs.

    Args:
        directory: Where the graphs lie.
        manifest: Says what they are called.
        threads: Threads of a session.
        shown: Names of inner values to return as well, by the file of their graph.
        scratch: An empty directory for the graphs that show them.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        threads: int,
        shown: Mapping[str, Sequence[str]] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.manifest = manifest
        self.shown = {file: list(names) for file, names in (shown or {}).items() if names}
        if self.shown:
            assert scratch is not None
            show(directory, self.shown, scratch, [name for name in manifest.files if not name.endswith(".onnx")])
        self._sessions = {
            file: create_session(
                (scratch if file in self.shown and scratch else directory) / file, threads, spinning=False
            )
            for file in graph_files(manifest)
        }

    def run(self, row: Row) -> tuple[NDArray[np.float32], dict[tuple[str, str], Array]]:
        """Logits [T, V] of every position of a row, and the values shown, each as [N, K]."""
        inside: dict[tuple[str, str], list[Array]] = {}
        names, count = self.manifest.decoder, len(row.tokens)
        cross = self._encode(row, inside)
        sizes = {"batch": 1, "capacity": count}
        caches: dict[str, Array] = {
            c.past: np.zeros([sizes[d] if isinstance(d, str) else d for d in c.dims], c.dtype) for c in names.cache
        }
        # In a call with a visible prefix everything sees everything, so what follows it has a call of its own.
        apart = self.manifest.prompt_pass == "whole" and row.prompt < count
        logits: list[Array] = []
        for start, end in [(0, row.prompt), (row.prompt, count)] if apart else [(0, count)]:
            roles: dict[str, Array] = {
                "input_ids": np.array([row.tokens[start:end]], np.int64),
                "new_lengths": np.array([end - start], np.int32),
                "last_positions": np.array([end - 1], np.int32),
                "total_length": np.array(end, np.int32),
                "logit_rows": np.arange(end - start, dtype=np.int64),
                "prefix_lengths": np.array([0 if start else row.prompt], np.int32),
                "top_k": np.array(0, np.int64),
            }
            feeds = (
                {names.inputs[role]: value for role, value in roles.items() if role in names.inputs} | cross | caches
            )
            wanted = {"logits": names.outputs["logits"]} | ({c.past: c.present for c in names.cache} if apart else {})
            found = self._call(names.file, wanted, feeds, inside)
            logits.append(found.pop("logits"))
            caches |= found
        return np.concatenate(logits), {place: np.concatenate(parts) for place, parts in inside.items()}

    def _encode(self, row: Row, inside: dict[tuple[str, str], list[Array]]) -> dict[str, Array]:
        """What the decoder reads of the source; nothing without an encoder."""
        encoder = self.manifest.encoder
        if encoder is None:
            return {}
        source = np.array([row.source], np.int64)
        lengths = np.array([source.shape[1]], np.int32)
        feeds: dict[str, Array] = {encoder.inputs["input_ids"]: source, encoder.inputs["lengths"]: lengths}
        cross = self._call(encoder.file, encoder.outputs, feeds, inside)
        return cross | {self.manifest.decoder.inputs["source_lengths"]: lengths}

    def _call(
        self, file: str, outputs: Mapping[str, str], feeds: dict[str, Array], inside: dict[tuple[str, str], list[Array]]
    ) -> dict[str, Array]:
        shown = self.shown.get(file, [])
        values = self._sessions[file].run([*outputs.values(), *shown], feeds)
        for name, value in zip(shown, values[len(outputs) :], strict=True):
            inside.setdefault((file, name), []).append(value.reshape(-1, value.shape[-1]))
        return dict(zip(outputs, values, strict=False))


def graph_files(manifest: Manifest) -> list[str]:
    """The files of a bundle's graphs."""
    return [manifest.decoder.file, *([manifest.encoder.file] if manifest.encoder else [])]


def show(directory: Path, names: Mapping[str, Sequence[str]], scratch: Path, others: Sequence[str]) -> None:
    """Write graphs with inner values as outputs into `scratch`, beside the weights they read."""
    for file, wanted in names.items():
        model = ir.load(directory / file)
        values = {v.name: v for node in model.graph for v in node.outputs}
        outputs = {v.name for v in model.graph.outputs}
        model.graph.outputs.extend(values[name] for name in wanted if name not in outputs)
        ir.save(model, scratch / file)
    for name in others:
        if not (scratch / name).exists():
            link_or_copy(directory / name, scratch / name)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name; onnxruntime refuses symbolic links that leave a model's directory."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def versions() -> str:
    """The runtime, for the record."""
    return f"onnxruntime {onnxruntime.__version__}, CPU"
