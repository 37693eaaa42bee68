"""The two graphs of a bundle, called by role: names come from the manifest, memory from the caller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from litseq.bundle import Bundle, CacheTensor, CrossTensor, Manifest
from litseq.errors import BundleError, LitseqError
from litseq.runtime.row_store import TensorSpec
from litseq.runtime.sessions import Binding, Session, create_session
from litseq.runtime.weights import Weights

Array = NDArray[Any]

_ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
_LARGE_TOKENS = 1024
"""Calls of so many tokens give their memory back; shorter ones find it there the next time."""

Dims = tuple[int | str, ...]

_ROLES: dict[str, tuple[str, Dims]] = {
    "input_ids": ("int64", ("batch", "new")),
    "last_positions": ("int32", ("batch",)),
    "new_lengths": ("int32", ("batch",)),
    "total_length": ("int32", ()),
    "logit_rows": ("int64", ("rows",)),
    "top_k": ("int64", ()),
    "source_lengths": ("int32", ("batch",)),
    "prefix_lengths": ("int32", ("batch",)),
    "lengths": ("int32", ("batch",)),
    "top_ids": ("int64", ("rows", "k")),
    "top_log_probs": ("float32", ("rows", "k")),
}


class Graphs:
    """Sessions and tensor names of one bundle. Safe to share between threads: every call brings its own memory."""

    def __init__(self, bundle: Bundle, threads: int, *, spinning: bool = True) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self._process = os.getpid()
        self._weights = Weights(bundle)
        self.encoder: Session | None = None
        with self._weights.loading():
            # The decoder first: a large table is packed before the encoder's weights take their memory.
            self.decoder = self._load(bundle, manifest.decoder.file, threads, spinning=spinning)
            if manifest.encoder is not None:
                # Its threads must not go on spinning beside the decoder's, which take over right after it.
                self.encoder = self._load(bundle, manifest.encoder.file, threads, spinning=spinning, lingering=False)
        problems = _contradictions(self.decoder, *_decoder_tensors(manifest))
        if self.encoder is not None:
            problems += _contradictions(self.encoder, *_encoder_tensors(manifest))
        if problems:
            raise BundleError(
                f"{bundle.path}: graphs and manifest contradict each other: {'; '.join(problems[:6])}; export the bundle again"
            )
        self.cache_specs = [_spec(c.past, c) for c in manifest.decoder.cache]
        self.cross_specs = [_spec(c.name, c) for c in manifest.decoder.cross]
        self._presents = {c.past: c.present for c in manifest.decoder.cache}

    def decoder_binding(
        self,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array],
        cache: Mapping[str, tuple[Array, Array]],
        cross: Mapping[str, Array],
    ) -> Binding:
        """Bind one decoder call: arrays by role, caches as (read from, written to), one array twice when in place."""
        binding = Binding(self.decoder, is_large=inputs["input_ids"].size >= _LARGE_TOKENS)
        names = self.manifest.decoder
        for role, array in inputs.items():
            if name := names.inputs.get(role):
                binding.input(name, array)
        for name, array in cross.items():
            binding.input(name, array)
        for name, (past, present) in cache.items():
            value = binding.input(name, past)
            binding.output(self._presents[name], value if present is past else present)
        for role, array in outputs.items():
            binding.output(names.outputs[role], array)
        return binding

    def decode(self, binding: Binding) -> None:
        """Run the decoder over a binding."""
        self._run(self.decoder, binding)

    def encode(self, ids: Array, lengths: Array, cross: Mapping[str, Array]) -> None:
        """Run the encoder: `ids` [B, S] into the cross tensors, each [B, ..., S, ...]."""
        assert self.encoder is not None
        assert self.manifest.encoder is not None
        names = self.manifest.encoder
        binding = Binding(self.encoder, is_large=ids.size >= _LARGE_TOKENS)
        binding.input(names.inputs["input_ids"], ids)
        binding.input(names.inputs["lengths"], lengths)
        for name, array in cross.items():
            binding.output(names.outputs[name], array)
        self._run(self.encoder, binding)

    @property
    def has_top_k(self) -> bool:
        """Whether the decoder graph finds the likeliest tokens itself."""
        return "top_k" in self.manifest.decoder.inputs

    def _load(self, bundle: Bundle, name: str, threads: int, *, spinning: bool, lingering: bool = True) -> Session:
        file, data = bundle.file(name), self._weights.arrays
        return create_session(file, threads, spinning=spinning, lingering=lingering, data=data)

    def _run(self, session: Session, binding: Binding) -> None:
        if self._process != os.getpid():
            raise LitseqError(
                f"this generator was loaded by process {self._process} and this is process {os.getpid()}, a fork of it, in "
                "which onnxruntime's threads do not exist; load the generator in the new process, or start that with "
                "multiprocessing.get_context('spawn')"
            )
        try:
            binding.run(session)
        except Exception as error:
            raise LitseqError(
                f"onnxruntime {onnxruntime.__version__} failed: {' '.join(str(error).split())[:300]}"
            ) from error


def _spec(name: str, tensor: CacheTensor | CrossTensor) -> TensorSpec:
    return TensorSpec(name, tensor.dims, np.dtype(tensor.dtype))


def _decoder_tensors(manifest: Manifest) -> tuple[dict[str, tuple[str, Dims]], dict[str, tuple[str, Dims]]]:
    decoder = manifest.decoder
    roles = _ROLES | {"logits": ("float32", ("rows", manifest.model.vocab_size))}
    inputs = {name: roles[role] for role, name in decoder.inputs.items()}
    inputs |= {c.past: (c.dtype, c.dims) for c in decoder.cache} | {c.name: (c.dtype, c.dims) for c in decoder.cross}
    outputs = {name: roles[role] for role, name in decoder.outputs.items()}
    return inputs, outputs | {c.present: (c.dtype, c.dims) for c in decoder.cache}


def _encoder_tensors(manifest: Manifest) -> tuple[dict[str, tuple[str, Dims]], dict[str, tuple[str, Dims]]]:
    assert manifest.encoder is not None
    encoder = manifest.encoder
    inputs = {name: _ROLES[role] for role, name in encoder.inputs.items()}
    return inputs, {encoder.outputs[c.name]: (c.dtype, c.dims) for c in manifest.decoder.cross}


def _contradictions(
    session: Session, inputs: Mapping[str, tuple[str, Dims]], outputs: Mapping[str, tuple[str, Dims]]
) -> list[str]:
    """Where a graph differs from what the manifest says: binding by address trusts these names, types and sizes."""
    problems: list[str] = []
    for kind, expected, nodes in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        found = {node.name: node for node in nodes}
        for name, (dtype, dims) in expected.items():
            if name not in found:
                problems.append(f"the graph has no {kind} {name!r}")
            elif difference := _difference(found[name], dtype, dims):
                problems.append(f"{kind} {name!r} {difference}")
        if kind == "input":
            problems += [
                f"the graph asks for an input {name!r} of no known role" for name in found if name not in expected
            ]
    return problems


def _difference(node: Any, dtype: str, dims: Dims) -> str | None:
    found = _ORT_TYPES.get(node.type, node.type)
    if found != dtype:
        return f"is {found}, the manifest says {dtype}"
    if node.shape is None:
        return None
    fixed = zip(node.shape, dims, strict=False)
    if len(node.shape) != len(dims) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in fixed):
        shape, wanted = (", ".join(str(dim) for dim in values) for values in (node.shape, dims))
        return f"has the shape [{shape}], the manifest says [{wanted}]"
    return None
