"""Weights beside the graphs: one file for all graphs of a bundle, every distinct tensor in it once."""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

from litseq.bundle.manifest import is_plain_name
from litseq.errors import BundleError

WEIGHTS_FILE = "weights.data"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can see them."""
ALIGNMENT = 4096
"""A page, so that onnxruntime can map a tensor into memory where it lies."""


def load_graph(file: Path) -> ir.Model:
    """A graph whose weights are mapped where they lie when they are asked for.

    onnx_ir would read them too, but refuses a file with a second name (a hard link), which tools that save space make, and
    so does another quantisation of the same bundle while it runs.

    Raises:
        BundleError: The file is no graph, or names weights outside of its directory.
    """
    try:
        model = ir.load(file)
    except Exception as error:  # protobuf's and onnx_ir's own kinds
        raise BundleError(f"{file} is no ONNX graph ({' '.join(str(error).split())[:200]})") from error
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = _mapped(value.const_value, file)
    return model


def _mapped(tensor: ir.ExternalTensor, graph: Path) -> ir.LazyTensor:
    location = str(tensor.location)
    if not is_plain_name(location):
        raise BundleError(f"{graph} reads weights from {location!r}, expected a file beside it")

    def read() -> ir.TensorProtocol:
        shape, kind = tuple(tensor.shape.numpy()), tensor.dtype.numpy().newbyteorder("<")
        data = (
            np.memmap(graph.parent / location, kind, "r", tensor.offset or 0, shape)
            if tensor.size
            else np.empty(shape, kind)
        )
        return ir.Tensor(data, tensor.dtype, name=tensor.name)

    return ir.LazyTensor(read, tensor.dtype, tensor.shape, name=tensor.name)


def save_graphs(models: dict[str, ir.Model], directory: Path) -> None:
    """Write graphs, and their weights to `WEIGHTS_FILE`.

    A tensor that several graphs or nodes read (tied embeddings, a table shared by encoder and decoder) is stored once.

    Args:
        models: graphs by file name; their initializers point to the file afterwards.
        directory: where to write.
    """
    offsets: dict[bytes, int] = {}
    with open(directory / WEIGHTS_FILE, "wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                assert tensor is not None
                if tensor.nbytes <= INLINE_BYTES:
                    continue
                data = np.ascontiguousarray(tensor.numpy())
                key = hashlib.sha256(data.data.cast("B") if data.size else b"").digest() + str(data.dtype).encode()
                if key not in offsets:
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    offsets[key] = file.tell()
                    file.write(data.data.cast("B"))
                value.const_value = ir.ExternalTensor(
                    WEIGHTS_FILE,
                    offsets[key],
                    tensor.nbytes,
                    tensor.dtype,
                    shape=tensor.shape,  # type: ignore[arg-type]  # a tensor's shape is a Shape
                    name=value.name or "",
                    base_dir=directory,
                )
    for name, model in models.items():
        ir.save(model, directory / name)
