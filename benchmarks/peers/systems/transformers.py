"""transformers: `generate` with its own cache, torch with all threads."""

from importlib.metadata import version
from pathlib import Path

import torch
import transformers as hf


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        torch.set_num_threads(threads)
        hf.logging.set_verbosity_error()
        self.model = load(hf, directory / "transformers").eval()
        self.model.generation_config.eos_token_id = None

    def versions(self) -> dict[str, str]:
        return {"transformers": version("transformers"), "torch": torch.__version__}

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        return generate(self.model, prompts, count, beams)


def load(library: object, path: Path) -> object:
    """A model by whether it has an encoder."""
    config = hf.AutoConfig.from_pretrained(path)
    kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
    prefix = "ORTModelFor" if library is not hf else "AutoModelFor"
    return getattr(library, prefix + kind).from_pretrained(path)


def generate(model: object, prompts: list[list[int]], count: int, beams: int) -> list[list[int]]:
    """`count` new tokens, the end token out of play."""
    ids = torch.tensor(prompts)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
        num_beams=beams,
    )  # fmt: skip
    return out[:, -count:].tolist()


def convert(directory: Path, precision: str) -> None:
    """Nothing to do: the checkpoint is where the models begin."""
