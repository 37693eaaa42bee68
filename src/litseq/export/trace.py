"""From a module to an onnx graph, and a clear word about what cannot be exported."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from litseq.errors import ExportError
from litseq.export import passes
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
            raise ExportError(_explain(error, "has no ONNX form")) from error
    assert onnx_program is not None
    model = onnx_program.model
    passes.fold_weight_views(model.graph)
    passes.expand_prefix_attention(model.graph)
    passes.expand_attention_masks(model.graph)
    if spec.search_on is not None:
        passes.add_search_head(model.graph, spec.search_on)
    passes.drop_unused_initializers(model.graph)
    passes.remove_litseq_domain(model)
    return model


def _export(spec: GraphSpec) -> torch.export.ExportedProgram:
    try:
        program = torch.export.export(
            spec.module.eval(),
            spec.arguments(spec.inputs),
            dynamic_shapes=spec.arguments(spec.dynamic),
            strict=False,
        )
        return lower(program)
    except Exception as error:
        raise ExportError(_explain(error, "cannot be traced with varying batch and length")) from error


def _explain(error: BaseException, trouble: str) -> str:
    """One line: which operation, where, why."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    text = "\n".join(str(e) for e in chain)
    operation = re.search(r"(?:target:? |for |OpOverload\(op=)'?((?:aten|litseq|prims|[a-z_]+)[.:]+[\w.]+)", text)
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', text)
    own = [p for p in places if "/torch/" not in p[0] and not p[0].endswith(("export/graphs.py", "export/trace.py"))]
    reason = next((line.strip() for e in reversed(chain) for line in str(e).splitlines() if line.strip()), "")
    subject = f"operation {operation.group(1)}" if operation else "the module"
    where = f" at {own[-1][0]}, line {own[-1][1]}, in {own[-1][2]}" if own else ""
    return (
        f"{subject}{where} {trouble}: {reason[:300]}; compute it with operations that ONNX has, and without Python "
        "branches on tensor values"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter of torch warns and prints of its own inner affairs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
