"""Where a graph and its module part ways: the first layer whose output differs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

from litseq.export.graphs import GraphSpec

SCOPES = "pkg.torch.onnx.name_scopes"


def module_outputs(model: ir.Model) -> dict[str, str]:
    """For each module of a traced graph, the name of the value its last node gives.

    Must be asked before `forget_origin` takes the scopes away.
    """
    last: dict[str, str] = {}
    for node in model.graph:
        for scope in _scopes(node):
            last[scope] = node.outputs[0].name or ""
    return last


def forget_origin(model: ir.Model) -> None:
    """Drop what the tracer notes at nodes and values: source lines and paths of the machine that exports."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def first_difference(spec: GraphSpec, graph_file: Path, outputs: dict[str, str], tolerance: float) -> str | None:
    """The first module, in the order they run, whose output in the graph differs from torch's.

    Args:
        spec: the traced module; its example inputs are run, filled with random numbers.
        graph_file: the exported graph.
        outputs: what `module_outputs` said.
        tolerance: largest relative error.

    Returns:
        A line for an error message, or None when all agree on these inputs.
    """
    inputs = _random_inputs(spec)
    expected = dict(_torch_outputs(spec, inputs))
    model = ir.load(graph_file)
    values = {value.name: value for node in model.graph for value in node.outputs}
    known = {value.name for value in model.graph.outputs}
    names = {scope: name for scope, name in outputs.items() if scope in expected and name in values}
    model.graph.outputs.extend(values[name] for name in set(names.values()) - known)
    with tempfile.TemporaryDirectory(dir=graph_file.parent) as directory:
        file = Path(directory) / "probe.onnx"
        for initializer in model.graph.initializers.values():  # the probe lies elsewhere than the weights
            if isinstance(initializer.const_value, ir.ExternalTensor):
                initializer.const_value = ir.tensor(initializer.const_value.numpy().copy(), name=initializer.name)
        ir.save(model, file)
        session = onnxruntime.InferenceSession(file)
        wanted = {value.name for value in session.get_inputs()}
        feeds = {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted}
        feeds |= {"top_k": np.array(0, np.int64)} if "top_k" in wanted else {}
        found = dict(zip(names, session.run(list(names.values()), feeds), strict=True))
    for scope, reference in expected.items():
        if scope in found and found[scope].shape == tuple(reference.shape):
            difference = _difference(reference, found[scope], inputs.get("new_lengths"))
            if not difference <= tolerance:
                return f"the first layer that differs is {scope}, by {difference:.3g}"
    return None


def _difference(reference: Tensor, found: np.ndarray, new_lengths: Tensor | None) -> float:
    expected = reference.numpy()
    scale = max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
    error = np.abs(expected - found)
    if new_lengths is not None and expected.ndim == 3 and len(expected) == len(new_lengths):
        real = np.arange(expected.shape[1]) < new_lengths.numpy()[:, None]
        error = error[real]  # padding is unspecified
    return float(error.max()) / scale


def _random_inputs(spec: GraphSpec) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    config: Any = spec.module.get_submodule("decoder").config  # which both graphs hold
    inputs = {}
    for name, tensor in spec.inputs.items():
        if tensor.is_floating_point():
            tensor = torch.randn(tensor.shape, generator=generator)
        elif name == "input_ids":
            tensor = torch.randint(0, config.vocab_size, tensor.shape, generator=generator)
        inputs[name] = tensor
    if "prefix_lengths" in inputs:
        inputs["prefix_lengths"] = torch.zeros_like(inputs["prefix_lengths"])
    return inputs


@torch.no_grad()
def _torch_outputs(spec: GraphSpec, inputs: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    seen: dict[str, Tensor] = {}
    handles = []
    for name, module in spec.module.named_modules():
        if not name:
            continue

        def note(_: nn.Module, __: object, output: object, name: str = name) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                seen[name] = tensor

        handles.append(module.register_forward_hook(note))
    try:
        spec.module(*spec.arguments(inputs))
    finally:
        for handle in handles:
            handle.remove()
    yield from seen.items()


def _scopes(node: ir.Node) -> list[str]:
    text = node.metadata_props.get(SCOPES, "")
    return [part.strip(" '\"") for part in text.strip("[]").split(",") if part.strip(" '\"")]
