"""litseq: `Generator` over a bundle, without an end token, without reuse and without speculation unless a case asks."""

import inspect
import math
from dataclasses import fields
from pathlib import Path

import onnxruntime

import litseq
from litseq.generation import GenerationOptions
from litseq.runtime import Completion, Generator

_PLAIN = {"prompt_lookup": False} if "prompt_lookup" in {f.name for f in fields(GenerationOptions)} else {}
_NO_REUSE = {"reuse_bytes": 0} if "reuse_bytes" in inspect.signature(Generator.from_bundle).parameters else {}


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        settings = variant.split(", ")
        self.workers = threads if "2 workers" in settings else 1
        form = settings[0] if settings[0] != "2 workers" else ""
        self.path = directory / f"litseq-{precision}{f'-{form}' if form else ''}"
        self.threads = threads // self.workers
        self.generator = Generator.from_bundle(
            self.path, threads=self.threads, verify=False, batch_size=64, **_NO_REUSE
        )
        # Random weights may choose the end token at any step; the peers are told not to.
        self.end_tokens = self.generator._end_tokens
        self.generator._end_tokens = ()

    def versions(self) -> dict[str, str]:
        return {"litseq": litseq.__version__, "onnxruntime": onnxruntime.__version__}

    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        options = _PLAIN | ({"num_beams": beams} if beams > 1 else {})
        # Rows are shared out evenly among the workers.
        options |= {"workers": self.workers, "batch_size": beams * -(-len(prompts) // self.workers)}
        return [list(c.token_ids) for c in self.generator.generate(prompts, max_new_tokens=count, **options)]

    def file(self, source: str, target: str, limit: int) -> dict[str, object]:
        """Generate a file of lines, as the command line does: tokenizer, sorting, packing and writing included."""
        import time

        self.generator._end_tokens = self.end_tokens
        with open(source, encoding="utf-8") as stream:
            sample = [line.rstrip("\n") for line in stream][::40]
        seconds = {}
        for size in (32, 64, 128):
            begin = time.perf_counter()
            self._lines(sample, size, limit)
            seconds[size] = time.perf_counter() - begin
        best = min(seconds, key=seconds.__getitem__)
        begin = time.perf_counter()
        with open(source, encoding="utf-8") as stream:
            lines = [line.rstrip("\n") for line in stream]
        done = self._lines(lines, best, limit)
        with open(target, "w", encoding="utf-8") as out:
            out.writelines(completion.text + "\n" for completion in done)
        taken = time.perf_counter() - begin
        return {"batch": best, "seconds": taken, "tokens": sum(len(completion.token_ids) for completion in done)}

    def _lines(self, lines: list[str], size: int, limit: int) -> list[Completion]:
        return self.generator.generate(lines, max_new_tokens=limit, batch_size=size, workers=self.workers, **_PLAIN)

    def serve(self, **case: object) -> dict[str, object]:
        """Requests that arrive at random; see `serving.serve`."""
        from systems.serving import serve

        return serve(self, **case)

    def chat(self, **case: object) -> dict[str, object]:
        """A chat, turn by turn; see `serving.chat`."""
        from systems.serving import chat

        return chat(self, **case)

    def lookup(self, prompt: list[int], count: int, use: bool | None) -> list[int]:
        """One greedy completion with prompt lookup on, off, or as it is by default."""
        options = {} if use is None else {"prompt_lookup": use}
        return list(self.generator.generate([prompt], max_new_tokens=count, **options)[0].token_ids)


def convert(directory: Path, precision: str) -> None:
    """litseq's own quantisation of the fp32 bundle that `models.build` exported: 8 bits in both forms."""
    if precision == "fp32":
        return
    from litseq.quantize import QuantizeOptions, quantize_bundle

    for batch in ("large", "small") if precision == "int8" else ("",):
        target = directory / f"litseq-{precision}{f'-{batch}' if batch else ''}"
        # Random weights have no quality that compensation could keep.
        options = QuantizeOptions(to=precision, batch=batch or None, compensate=False, max_loss=math.inf)
        quantize_bundle(directory / "litseq-fp32", target, options, force=True)
