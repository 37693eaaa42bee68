"""The two graphs of a bundle, called by role: names come from the manifest, memory from the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from litseq.bundle import Bundle, CacheTensor, CrossTensor, Manifest
from litseq.errors import BundleError, LitseqError
from litseq.runtime.row_store import TensorSpec
from litseq.runtime.sessions import Binding, Session, create_session

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
_ROLE_TYPES = {"input_ids": "int64", "logit_rows": "int64", "top_k": "int64", "logits": "float32"} | {
    "top_ids": "int64",
    "top_log_probs": "float32",
}


class Graphs:
    """Sessions and tensor names of one bundle. Safe to share between threads: every call brings its own memory."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        manifest = bundle.manifest
        self.manifest = manifest
        self.decoder = create_session(bundle.file(manifest.decoder.file), threads)
        self.encoder = create_session(bundle.file(manifest.encoder.file), threads) if manifest.encoder else None
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
        cache: Mapping[str, Array],
        cross: Mapping[str, Array],
    ) -> Binding:
        """Bind one decoder call: arrays by role, caches in place. The arrays must live as long as the binding."""
        binding = self.decoder.io_binding()
        names = self.manifest.decoder
        for role, array in inputs.items():
            if name := names.inputs.get(role):
                _bind(binding.bind_input, name, array)
        for name, array in cross.items():
            _bind(binding.bind_input, name, array)
        for name, array in cache.items():
            _bind(binding.bind_input, name, array)
            _bind(binding.bind_output, self._presents[name], array)
        for role, array in outputs.items():
            _bind(binding.bind_output, names.outputs[role], array)
        return binding

    def decode(self, binding: Binding) -> None:
        """Run the decoder over a binding."""
        _run(self.decoder, binding)

    def encode(self, ids: Array, lengths: Array, cross: Mapping[str, Array]) -> None:
        """Run the encoder: `ids` [B, S] into the cross tensors, each [B, ..., S, ...]."""
        assert self.encoder is not None
        assert self.manifest.encoder is not None
        names = self.manifest.encoder
        binding = self.encoder.io_binding()
        _bind(binding.bind_input, names.inputs["input_ids"], ids)
        _bind(binding.bind_input, names.inputs["lengths"], lengths)
        for name, array in cross.items():
            _bind(binding.bind_output, names.outputs[name], array)
        _run(self.encoder, binding)

    @property
    def has_top_k(self) -> bool:
        """Whether the decoder graph finds the likeliest tokens itself."""
        return "top_k" in self.manifest.decoder.inputs


def _run(session: Session, binding: Binding) -> None:
    try:
        session.run_with_iobinding(binding)
    except Exception as error:
        raise LitseqError(
            f"onnxruntime {onnxruntime.__version__} failed: {' '.join(str(error).split())[:300]}"
        ) from error


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _spec(name: str, tensor: CacheTensor | CrossTensor) -> TensorSpec:
    return TensorSpec(name, tensor.dims, np.dtype(tensor.dtype))


def _decoder_tensors(manifest: Manifest) -> tuple[dict[str, str], dict[str, str]]:
    decoder = manifest.decoder
    inputs = {name: _ROLE_TYPES.get(role, "int32") for role, name in decoder.inputs.items()}
    inputs |= {c.past: c.dtype for c in decoder.cache} | {c.name: c.dtype for c in decoder.cross}
    outputs = {name: _ROLE_TYPES[role] for role, name in decoder.outputs.items()}
    return inputs, outputs | {c.present: c.dtype for c in decoder.cache}


def _encoder_tensors(manifest: Manifest) -> tuple[dict[str, str], dict[str, str]]:
    assert manifest.encoder is not None
    dtypes = {c.name: c.dtype for c in manifest.decoder.cross}
    inputs = {name: _ROLE_TYPES.get(role, "int32") for role, name in manifest.encoder.inputs.items()}
    return inputs, {name: dtypes.get(cross, "float32") for cross, name in manifest.encoder.outputs.items()}


def _contradictions(session: Session, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[str]:
    """Where a graph differs from what the manifest says: binding by address trusts these names and types."""
    problems: list[str] = []
    for kind, expected, nodes in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        found = {node.name: _ORT_TYPES.get(node.type, node.type) for node in nodes}
        problems += _differences(kind, expected, found)
        if kind == "input":
            problems += [
                f"the graph asks for an input {name!r} of no known role" for name in found if name not in expected
            ]
    return problems


def _differences(kind: str, expected: Mapping[str, str], found: Mapping[str, str]) -> Iterable[str]:
    for name, dtype in expected.items():
        if name not in found:
            yield f"the graph has no {kind} {name!r}"
        elif found[name] != dtype:
            yield f"{kind} {name!r} is {found[name]}, the manifest says {dtype}"
