"""optimum-onnx: transformers' loop over onnxruntime; torch with one thread, so that two spinning pools do not fight."""

import shutil
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch
import transformers as hf

from systems.transformers import generate


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        torch.set_num_threads(1)
        hf.logging.set_verbosity_error()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = directory / f"optimum-{precision}"
        self.model = _model_class(path).from_pretrained(path, session_options=options)
        self.model.generation_config.eos_token_id = None

    def versions(self) -> dict[str, str]:
        return {"optimum-onnx": version("optimum-onnx"), "onnxruntime": onnxruntime.__version__}

    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        return generate(self.model, prompts, count, beams)


def convert(directory: Path, precision: str) -> None:
    """Export with optimum; 8 bits with onnxruntime's dynamic quantisation, a scale a channel."""
    fp32 = directory / "optimum-fp32"
    if not fp32.is_dir():
        model = _model_class(directory / "transformers").from_pretrained(directory / "transformers", export=True)
        model.save_pretrained(fp32)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        target = directory / "optimum-int8"
        target.mkdir(exist_ok=True)
        for file in fp32.iterdir():
            if file.suffix == ".onnx":
                quantize_dynamic(file, target / file.name, per_channel=True, weight_type=QuantType.QInt8)
            elif file.suffix == ".json":
                shutil.copy(file, target)


def _model_class(path: Path) -> type:
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM

    return ORTModelForSeq2SeqLM if hf.AutoConfig.from_pretrained(path).is_encoder_decoder else ORTModelForCausalLM
