"""Train sequence models with Lightning, export them with their cache, run them with onnxruntime.

The root imports nothing: `litseq.runtime` must stay importable where torch is not installed.
"""

__version__ = "0.1.0"
