"""Weights beside the graphs: one file for all graphs of a bundle, every distinct tensor in it once."""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

WEIGHTS_FILE = "weights.data"
INLINE_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can see them."""
ALIGNMENT = 4096
"""A page, so that onnxruntime can map a tensor into memory where it lies."""


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
