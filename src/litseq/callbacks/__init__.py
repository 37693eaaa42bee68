"""Callbacks for a Lightning trainer."""

from litseq.callbacks.onnx_export import OnnxExport

__all__ = ["OnnxExport"]
