"""From a trained module to a verified bundle."""

from litseq.export.exporter import assert_exportable, export_bundle
from litseq.export.parity import ParityReport

__all__ = ["ParityReport", "assert_exportable", "export_bundle"]
