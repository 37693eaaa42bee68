"""Quantised bundles: an fp32 bundle made smaller and faster without torch, with a statement of what it costs."""

from litseq.quantize.options import QuantizeOptions as QuantizeOptions
from litseq.quantize.quantizer import quantize_bundle as quantize_bundle
from litseq.quantize.quantizer import quantize_files as quantize_files
from litseq.quantize.quantizer import quantize_in_place as quantize_in_place
from litseq.quantize.report import QuantizationReport as QuantizationReport

__all__ = ["QuantizationReport", "QuantizeOptions", "quantize_bundle", "quantize_files", "quantize_in_place"]
