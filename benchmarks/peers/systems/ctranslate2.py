"""CTranslate2: tokens are called w0, w1, ..., since it takes words and not numbers."""

import json
from collections.abc import Sequence
from pathlib import Path

import ctranslate2 as ct2


class System:
    def __init__(self, directory: Path, precision: str, threads: int, variant: str) -> None:
        self.workers = threads if variant == "2 workers" else 1
        config = json.loads((directory / "transformers" / "config.json").read_text())
        options = {"compute_type": "int8" if precision == "int8" else "float32"}
        options |= {"intra_threads": threads // self.workers, "inter_threads": self.workers}
        path = str(directory / f"ctranslate2-{precision}")
        self.translator = ct2.Translator(path, **options) if config.get("is_encoder_decoder") else None
        self.generator = None if self.translator else ct2.Generator(path, **options)

    def versions(self) -> dict[str, str]:
        return {"ctranslate2": ct2.__version__}

    def generate(self, prompts: list[list[int]], count: int, beams: int = 1) -> list[list[int]]:
        words = [[f"w{i}" for i in prompt] for prompt in prompts]
        # Rows are shared out evenly among the workers.
        options = {"beam_size": beams, "max_batch_size": -(-len(words) // self.workers) if self.workers > 1 else 0}
        if self.generator:
            results = self.generator.generate_batch(
                words, max_length=count, min_length=count, sampling_topk=1, include_prompt_in_result=False, **options
            )
            return [list(result.sequences_ids[0]) for result in results]
        results = self.translator.translate_batch(
            words, max_decoding_length=count, min_decoding_length=count, **options
        )
        return [[int(token[1:]) for token in result.hypotheses[0]] for result in results]

    def file(self, source: str, target: str, tokenizer: str, limit: int) -> dict[str, object]:
        """Translate a file of lines, tokenizers included; CTranslate2 sorts and packs."""
        import tokenizers

        words = tokenizers.Tokenizer.from_file(tokenizer)
        names = [f"w{i}" for i in range(words.get_vocab_size() + 1)]
        with open(source, encoding="utf-8") as stream:
            lines = [line.rstrip("\n") for line in stream]
        # litseq's end token is number 2 and stands behind every source.
        prompts = [[*(names[i] for i in encoding.ids), "w2"] for encoding in words.encode_batch_fast(lines)]
        sample = prompts[: max(1, len(prompts) // 40)]
        best = min((self._timed(sample, size, limit)[0], size) for size in (16, 32, 64, 128))[1]
        return {"batch": best, "prompts": len(prompts)} | self._whole(lines, words, names, best, target, limit)

    def _whole(
        self, lines: list[str], words: object, names: Sequence[str], size: int, target: str, limit: int
    ) -> dict[str, object]:
        import time

        begin = time.perf_counter()
        prompts = [[*(names[i] for i in encoding.ids), "w2"] for encoding in words.encode_batch_fast(lines)]
        _, results = self._timed(prompts, size, limit)
        outputs = [[int(token[1:]) for token in result.hypotheses[0]] for result in results]
        texts = words.decode_batch(outputs)
        with open(target, "w", encoding="utf-8") as stream:
            stream.writelines(text + "\n" for text in texts)
        return {"seconds": time.perf_counter() - begin, "tokens": sum(map(len, outputs))}

    def _timed(self, prompts: list[list[str]], size: int, limit: int) -> tuple[float, list]:
        import time

        begin = time.perf_counter()
        results = self.translator.translate_batch(
            prompts, beam_size=1, max_decoding_length=limit, max_batch_size=size, batch_type="examples"
        )
        return time.perf_counter() - begin, results


class _Words:
    """What the converter asks of a tokenizer."""

    bos_token, eos_token, unk_token, pad_token = "w1", "w2", "w3", "<pad>"
    unk_token_id = 3

    def __init__(self, size: int, padded: bool) -> None:
        self.size, self.padded = size, padded

    def get_vocab(self) -> dict[str, int]:
        return {"<pad>" if self.padded and i == self.size - 1 else f"w{i}": i for i in range(self.size)}


def convert(directory: Path, precision: str) -> None:
    """CTranslate2's converter of transformers checkpoints."""
    import transformers as hf
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):
        def load_tokenizer(self, tokenizer_class: object, model_name_or_path: str, **_: object) -> _Words:
            config = hf.AutoConfig.from_pretrained(model_name_or_path)
            return _Words(config.vocab_size, config.is_encoder_decoder)

    quantization = "int8" if precision == "int8" else None
    converter = Converter(str(directory / "transformers"), low_cpu_mem_usage=True)
    converter.convert(str(directory / f"ctranslate2-{precision}"), quantization=quantization, force=True)
