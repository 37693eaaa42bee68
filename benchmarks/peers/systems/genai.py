"""onnxruntime-genai: its builder's graphs, its loop in C++."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        path = directory / f"genai-{precision}"
        _set_threads(path / "genai_config.json", threads)
        self.model = og.Model(str(path))

    def versions(self) -> dict[str, str]:
        return {"onnxruntime-genai": og.__version__}

    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        params = og.GeneratorParams(self.model)
        length = len(prompts[0]) + count
        params.set_search_options(batch_size=len(prompts), max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(self.model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        for _ in range(count):
            generator.generate_next_token()
        return [generator.get_sequence(i)[-count:].tolist() for i in range(len(prompts))]


def convert(directory: Path, precision: str) -> None:
    """Its model builder, for the CPU."""
    target = directory / f"genai-{precision}"
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "random", "-i"]
    command += [str(directory / "transformers"), "-o", str(target), "-p", precision, "-e", "cpu"]
    subprocess.run(command, check=True)


def _set_threads(file: Path, threads: int) -> None:
    config = json.loads(file.read_text())
    for part in config["model"].values():
        if isinstance(part, dict) and "session_options" in part:
            part["session_options"]["intra_op_num_threads"] = threads
    file.write_text(json.dumps(config, indent=1))
