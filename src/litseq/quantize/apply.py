"""Write quantised weights into the graphs of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from litseq.quantize.blocks_form import BlocksForm, BlockWeight
from litseq.quantize.nodes import Writer
from litseq.quantize.plan import Weight
from litseq.quantize.rows_form import RowsForm, RowWeight


def apply(models: dict[str, ir.Model], weights: Sequence[Weight], done: Mapping[str, RowWeight | BlockWeight]) -> None:
    """Replace every product and gather of `weights` by one that reads what `done` holds under their names."""
    writers = {file: Writer(model) for file, model in models.items()}
    rows = {file: RowsForm(writer) for file, writer in writers.items()}
    blocks = {file: BlocksForm(writer) for file, writer in writers.items()}
    for weight in weights:
        quantised = done[weight.name]
        for file, linear in weight.linears:
            if isinstance(quantised, RowWeight):
                rows[file].linear(linear, quantised, shared=bool(weight.tables))
            else:
                blocks[file].linear(linear, quantised)
        for file, table in weight.tables:
            form = rows[file] if isinstance(quantised, RowWeight) else blocks[file]
            form.table(table, quantised)  # type: ignore[arg-type]  # each form has its own kind of weight
    for model in models.values():
        for name, value in list(model.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del model.graph.initializers[name]
        # Where a matrix is read in several places, what it shares with others may stand behind them.
        model.graph.sort()
