"""The systems that are measured: which environment each lives in, what it can run, and how it is started.

A module of this package is imported only inside the system's own process; it has a class `System(directory, precision,
threads, variant)` with `versions()` and `generate(prompts, count, beams)`, and `convert(directory, precision)`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """A system: its module here, the environment it is installed in, and what it offers."""

    module: str
    environment: str  # "litseq": the one that runs this benchmark; else a folder made by setup.sh
    package: str
    families: tuple[str, ...]
    precisions: dict[str, str]
    """Bits of the case -> what this system calls the weights."""
    beams: bool = False
    variants: dict[str, dict[str, str]] = field(default_factory=lambda: {"": {}})
    """Settings to try, each in a process of its own: variables of its environment. The best one counts."""


SYSTEMS = {
    "litseq": Entry(
        "litseq", "litseq", "litseq", ("llama", "gpt2", "marian"), {"fp32": "fp32", "int8": "int8", "int4": "int4"}, True,
        # The form of an 8-bit bundle: chosen when it is made, for the batch sizes that it will serve. For files, loops of one
        # thread each, as the command line chooses them.
        {name: {} for name in ("", "large", "small", "2 workers", "large, 2 workers", "small, 2 workers")},
    ),
    "transformers": Entry(
        "transformers", "peers-a", "transformers", ("llama", "gpt2", "marian"), {"fp32": "fp32"}, True
    ),
    "ctranslate2": Entry(
        "ctranslate2", "peers-a", "ctranslate2", ("llama", "gpt2", "marian"), {"fp32": "float32", "int8": "int8"}, True,
        # oneDNN is its own choice on AMD; two workers of one thread share the rows of a batch.
        {"": {}, "MKL": {"CT2_USE_MKL": "1"}, "AVX512": {"CT2_FORCE_CPU_ISA": "AVX512"}, "2 workers": {}},
    ),
    "optimum-onnx": Entry(
        "optimum", "peers-a", "optimum-onnx", ("llama", "gpt2", "marian"), {"fp32": "fp32", "int8": "dynamic int8"}, True
    ),
    "onnxruntime-genai": Entry(
        "genai", "peers-b", "onnxruntime-genai", ("llama",), {"fp32": "fp32", "int8": "int8", "int4": "int4"}
    ),
    "llama.cpp": Entry(
        "llama_cpp", "peers-a", "llama-cpp-python", ("llama", "gpt2"), {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
    ),
}  # fmt: skip
