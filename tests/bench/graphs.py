"""The same count as `litseq.bench.weights`, by onnx."""

import math

import onnx

LOOKUPS = {"Gather", "GatherBlockQuantized"}


def count_with_onnx(file):
    """Bytes of the weights that are read whole, and elements of those that are multiplied with."""
    graph = onnx.load(file, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    read = {name for node in graph.node if node.op_type not in LOOKUPS for name in node.input if name in tensors}
    size = sum(
        math.prod(tensors[name].dims) * onnx.helper.tensor_dtype_to_np_dtype(tensors[name].data_type).itemsize
        for name in read
    )
    multiplied = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "Transpose"):
            multiplied += sum(
                math.prod(tensors[n].dims) for n in node.input if n in tensors and len(tensors[n].dims) == 2
            )
    return size, multiplied
