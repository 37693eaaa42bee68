"""How each system generates: greedy, a fixed number of tokens, prompts of equal length given as ids."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], Prompts]


def litseq(directory: Path, threads: int) -> Generate:
    """The engine over a bundle, without an end token."""
    from litseq.bundle import open_bundle
    from litseq.generation import Engine, GenerationOptions, Prompt, Request, run
    from litseq.runtime.graphs import Graphs
    from litseq.runtime.step_model import OrtStepModel

    graphs = Graphs(open_bundle(directory / "litseq", verify=False), threads)
    start = graphs.manifest.prompt_format["start_ids"]

    def generate(prompts: Prompts, count: int) -> Prompts:
        engine = Engine(OrtStepModel(graphs), [], max_rows=len(prompts))
        options = GenerationOptions(max_new_tokens=count)
        for index, prompt in enumerate(prompts):
            engine.submit(Request(Prompt(start, prompt) if start else Prompt(prompt), options, index))
        return [list(result.tokens) for result in run(engine)]

    return generate


def transformers(directory: Path, threads: int) -> Generate:
    """`generate` of transformers, with its own cache."""
    import torch
    import transformers as hf

    torch.set_num_threads(threads)
    hf.logging.set_verbosity_error()
    config = hf.AutoConfig.from_pretrained(directory / "transformers")
    cls = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = cls.from_pretrained(directory / "transformers").eval()
    model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(prompts: Prompts, count: int) -> Prompts:
        ids = torch.tensor(prompts)
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "num_beams": 1}
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return out[:, -count:].tolist()

    return generate


def ctranslate2(directory: Path, threads: int) -> Generate:
    """CTranslate2 in fp32, one worker."""
    import ctranslate2 as ct2

    path = str(directory / "ctranslate2")
    options = {"compute_type": "float32", "intra_threads": threads, "inter_threads": 1}
    if ct2.contains_model(path) and "Decoder" in _spec_name(directory):
        generator = ct2.Generator(path, **options)

        def continue_(prompts: Prompts, count: int) -> Prompts:
            results = generator.generate_batch(
                [[f"w{i}" for i in prompt] for prompt in prompts], max_length=count, min_length=count, beam_size=1,
                sampling_topk=1, include_prompt_in_result=False,
            )  # fmt: skip
            return [list(result.sequences_ids[0]) for result in results]

        return continue_
    translator = ct2.Translator(path, **options)

    def translate(prompts: Prompts, count: int) -> Prompts:
        results = translator.translate_batch(
            [[f"w{i}" for i in prompt] for prompt in prompts], beam_size=1, max_decoding_length=count,
            min_decoding_length=count,
        )  # fmt: skip
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in results]

    return translate


def _spec_name(directory: Path) -> str:
    import json

    config = json.loads((directory / "transformers" / "config.json").read_text())
    return "Encoder" if config.get("is_encoder_decoder") else "Decoder"


PEERS: dict[str, Callable[[Path, int], Generate]] = {
    "litseq": litseq,
    "transformers": transformers,
    "ctranslate2": ctranslate2,
}


def installed(name: str) -> bool:
    """Whether a peer can be measured here."""
    return find_spec(name) is not None
