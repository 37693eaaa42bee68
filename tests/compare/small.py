"""A comparison of seconds: words turned round."""

import random

from litseq.compare.config import Arm, Budget, Comparison, Data, Speed

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def write_pairs(directory):
    generator = random.Random(0)
    for name, count in (("train", 200), ("val", 20), ("test", 24)):
        lines = [[generator.choice(WORDS) for _ in range(generator.randint(2, 7))] for _ in range(count)]
        text = "".join(f"{' '.join(line)}\t{' '.join(reversed(line))}\n" for line in lines)
        (directory / f"{name}.tsv").write_text(text)


def small(directory, **changes):
    settings = {
        "arms": {
            "encoder-decoder": Arm("litseq.models.EncoderDecoder", {"num_layers": 1}),
            "causal": Arm("litseq.models.DecoderOnly", {"num_layers": 2}),
        },
        "data": Data(
            init_args={"train": str(directory / "train.tsv"), "val": str(directory / "val.tsv"), "vocab_size": 60}
            | {"max_tokens": 256}
        ),
        "tests": {"test": str(directory / "test.tsv")},
        "out": str(directory / "out"),
        "model": {"embed_dim": 16, "num_heads": 2, "max_seq_len": 64, "learning_rate": 1e-2, "warmup_steps": 5}
        | {"dropout": 0.0, "schedule": "cosine"},
        "budget": Budget(tokens=4000),
        "validations": 3,
        "resamples": 50,
        "generation": {"max_new_tokens": 12},
        "speed": Speed(batches=[1, 2], lengths=[4], repeats=1, threads=1, sentences=3),
        "trainer": {"accelerator": "cpu"},
    }
    return Comparison(**(settings | changes))
