"""Which weights of a bundle are quantised, each once, however many graphs and nodes read it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from litseq.quantize.linears import Linear, Table, constant, find_linears, find_tables


@dataclass
class Weight:
    """A matrix [N, K], an output or a row of a table each line, and everything that reads it."""

    name: str
    value: ir.Value
    stored_as_rows: bool
    """Whether the bundle holds it as [N, K] and not as [K, N]."""
    linears: list[tuple[str, Linear]] = field(default_factory=list)
    """Products with it, each with the name of its graph."""
    tables: list[tuple[str, Table]] = field(default_factory=list)
    """Gathers from it."""

    def matrix(self) -> NDArray[np.float32]:
        """The content."""
        array = constant(self.value)
        return array if self.stored_as_rows else np.ascontiguousarray(array.T)

    @property
    def width(self) -> int:
        """K."""
        assert self.value.const_value is not None
        return int(self.value.const_value.shape.numpy()[1 if self.stored_as_rows else 0])

    @property
    def size(self) -> int:
        """N K."""
        assert self.value.const_value is not None
        return int(self.value.const_value.size)

    def gives(self, output: str) -> bool:
        """Whether one of its products is the output of this name, such as the logits."""
        return any(
            value.name == output and value.is_graph_output()
            for _, linear in self.linears
            for value in linear.node.outputs
        )


def find_weights(models: dict[str, ir.Model]) -> list[Weight]:
    """The weights of graphs by file name, in the order in which they are met."""
    found: dict[tuple[bytes, bool], Weight] = {}
    hashes: dict[ir.Value, bytes] = {}

    def weight(value: ir.Value, as_rows: bool) -> Weight:
        if value not in hashes:
            content = np.ascontiguousarray(constant(value))
            hashes[value] = hashlib.sha256(content.data.cast("B")).digest() + str(content.shape).encode()
        key = (hashes[value], as_rows)
        if key not in found:
            name = str(value.name) if as_rows else f"{value.name}.outputs"
            taken = {w.name for w in found.values()}
            found[key] = Weight(name if name not in taken else f"{name}.{len(taken)}", value, as_rows)
        return found[key]

    for file, model in models.items():
        for linear in find_linears(model):
            weight(linear.weight, linear.transposed).linears.append((file, linear))
        for table in find_tables(model):
            weight(table.weight, True).tables.append((file, table))
    return list(found.values())
