"""Callbacks for a Lightning trainer."""

from litseq.callbacks.average import AverageCheckpoints
from litseq.callbacks.compile import CompileLayers
from litseq.callbacks.onnx_export import OnnxExport
from litseq.callbacks.start_from import StartFrom
from litseq.callbacks.text_metrics import TextMetrics

__all__ = ["AverageCheckpoints", "CompileLayers", "OnnxExport", "StartFrom", "TextMetrics"]
