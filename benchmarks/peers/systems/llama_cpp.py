"""llama.cpp through the C functions of llama-cpp-python: rows of a batch are sequences of one context."""

import ctypes
import json
import sys
from importlib.metadata import version
from pathlib import Path

import llama_cpp as cpp
import numpy as np

FILES = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        cpp.llama_backend_init()
        _quiet()
        params = cpp.llama_model_default_params()
        path = directory / f"llama.cpp-{FILES[precision]}.gguf"
        self.model = cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(self.model))
        self.threads = threads

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": version("llama-cpp-python")}

    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        rows, length = len(prompts), len(prompts[0])
        context = self._context(rows, length + count)
        batch = cpp.llama_batch_init(max(rows * length, rows), 0, rows)
        try:
            return self._run(context, batch, prompts, count)
        finally:
            cpp.llama_batch_free(batch)
            cpp.llama_free(context)

    def _run(self, context: object, batch: object, prompts: list[list[int]], count: int) -> list[list[int]]:
        rows, length = len(prompts), len(prompts[0])
        for row, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                _set(batch, row * length + position, token, position, row, position == length - 1)
        batch.n_tokens = rows * length
        outputs: list[list[int]] = [[] for _ in prompts]
        places = [row * length + length - 1 for row in range(rows)]
        for step in range(count):
            if cpp.llama_decode(context, batch):
                raise RuntimeError("llama_decode failed")
            for row, place in enumerate(places):
                logits = np.ctypeslib.as_array(cpp.llama_get_logits_ith(context, place), (self.vocab,))
                outputs[row].append(int(logits.argmax()))
            for row in range(rows):
                _set(batch, row, outputs[row][-1], length + step, row, True)
            batch.n_tokens = rows
            places = list(range(rows))
        return outputs

    def _context(self, rows: int, length: int) -> object:
        params = cpp.llama_context_default_params()
        params.n_ctx = rows * (-(-length // 256) * 256)
        params.n_seq_max = rows
        params.n_batch = max(2048, rows * length)
        params.n_threads = params.n_threads_batch = self.threads
        context = cpp.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError("llama.cpp cannot make a context")
        return context


def _set(batch: object, index: int, token: int, position: int, row: int, wanted: bool) -> None:
    batch.token[index] = token
    batch.pos[index] = position
    batch.n_seq_id[index] = 1
    batch.seq_id[index][0] = row
    batch.logits[index] = int(wanted)


@cpp.llama_log_callback
def _drop(level: int, text: bytes, data: object) -> None:
    """llama.cpp tells much of what it does."""


def _quiet() -> None:
    cpp.llama_log_set(_drop, ctypes.c_void_p(0))


def convert(directory: Path, precision: str) -> None:
    """llama.cpp's own converter, without a vocabulary; quantised by its own function, output matrix included."""
    base = directory / "llama.cpp-F32.gguf"
    if not base.is_file():
        _convert_fp32(directory / "transformers", base)
    if precision == "fp32":
        return
    params = cpp.llama_model_quantize_default_params()
    params.ftype = {"int8": cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[precision]
    target = directory / f"llama.cpp-{FILES[precision]}.gguf"
    cpp.llama_backend_init()
    if cpp.llama_model_quantize(str(base).encode(), str(target).encode(), ctypes.byref(params)):
        raise RuntimeError(f"llama_model_quantize failed for {target}")


def _convert_fp32(source: Path, target: Path) -> None:
    folder = Path(sys.prefix) / "llama.cpp"
    if not folder.is_dir():
        raise RuntimeError(f"{folder} is missing: setup.sh takes llama.cpp's converter from its source package")
    sys.path[:0] = [str(folder), str(folder / "gguf-py")]
    import convert_hf_to_gguf as script

    architecture = json.loads((source / "config.json").read_text())["architectures"][0]
    script.get_model_class(architecture).set_vocab = lambda self: self._set_vocab_none()
    sys.argv = ["convert_hf_to_gguf", str(source), "--outfile", str(target), "--outtype", "f32"]
    script.main()
