"""From a module to an onnx graph, and a clear word about what cannot be exported."""

import contextlib
import difflib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from litseq.errors import ExportError
from litseq.export import passes
from litseq.export.folding import fold_constants
from litseq.export.graphs import GraphSpec
from litseq.export.lowering import TRANSLATION_TABLE, lower

OPSET = 23
"""The first opset with RMSNormalization, Attention and RotaryEmbedding as single nodes."""


def trace(spec: GraphSpec) -> ir.Model:
    """Trace a graph and bring it into the form onnxruntime runs fastest.

    Raises:
        ExportError: names the operation that cannot be exported, and the line of the module where it stands.
    """
    with torch.no_grad(), _quiet():
        program = _export(spec)
        try:
            onnx_program = torch.onnx.export(
                program,
                custom_translation_table=TRANSLATION_TABLE,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(spec.inputs),
                output_names=spec.outputs,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(_explain(error, "has no ONNX form", program)) from error
    assert onnx_program is not None
    model = onnx_program.model
    passes.fold_weight_views(model.graph)
    fold_constants(model.graph)
    passes.expand_prefix_attention(model.graph)
    passes.expand_attention_masks(model.graph)
    for past, present, _ in spec.cache:
        if not passes.writes_in_place(model.graph, past, present):
            passes.copy_before_overwrite(model.graph, past, present)
    if spec.search_on is not None:
        passes.add_search_head(model.graph, spec.search_on)
    passes.drop_unused_initializers(model.graph)
    passes.remove_litseq_domain(model)
    return model


def _export(spec: GraphSpec) -> torch.export.ExportedProgram:
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where torch prints the whole graph when it fails
            program = torch.export.export(
                spec.module.eval(),
                spec.arguments(spec.inputs),
                dynamic_shapes=spec.arguments(spec.dynamic),
                strict=False,
            )
        return lower(program)
    except Exception as error:
        raise ExportError(_explain(error, "cannot be traced with varying batch and length")) from error


def _explain(error: BaseException, trouble: str, program: torch.export.ExportedProgram | None = None) -> str:
    """One line: which operation, where, why."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    text = "\n".join([*(line for e in chain for line in traceback.format_tb(e.__traceback__)), *map(str, chain)])
    found = re.search(r"OpOverload\(op='([\w.:]+)'", text)
    operation = found.group(1) if found else None
    if program is not None:
        text += _origin(program, text)
    places = [p for p in re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text) if _is_users(p[0])]
    where = f" at {places[-1][0]}, line {places[-1][1]}, in {places[-1][2]}" if places else ""
    reason = next((line.strip() for e in reversed(chain) for line in str(e).splitlines() if line.strip()), "")
    return (
        f"{f'operation {operation}' if operation else 'the module'}{where} {trouble}: {reason[:300]}; compute it with "
        "operations that ONNX has, and without Python branches on tensor values"
    )


def _origin(program: torch.export.ExportedProgram, text: str) -> str:
    """The source lines of the node an error names.

    It may have been decomposed from another, which had the same inputs and, as a rule, a similar name.
    """
    found = re.search(r"translating node %\w+ : .*?\[target=torch\.ops\.([\w.]+)\]\(args = \(([^)]*)", text)
    if found is None:
        return ""
    inputs = re.findall(r"%(\w+)", found[2])
    nodes = [
        node
        for node in program.graph.nodes
        if node.op == "call_function" and [value.name for value in node.all_input_nodes] == inputs
    ]
    alike = max(nodes, key=lambda n: difflib.SequenceMatcher(None, str(n.target), found[1]).ratio(), default=None)
    return "" if alike is None else str(alike.meta.get("stack_trace", ""))


def _is_users(file: str) -> bool:
    return "/torch/" not in file and not file.endswith(("export/graphs.py", "export/trace.py", "export/lowering.py"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter of torch warns of its own inner affairs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
