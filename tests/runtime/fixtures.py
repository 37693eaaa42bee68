"""The committed bundles, which need neither torch nor onnx, and the numpy networks they were laid from."""

from pathlib import Path

from runtime.tiny_graphs import TinyNet

# A byte-level tokenizer; random weights, with an end token likely enough that some outputs end by it.
FIXTURES = {
    "tiny-decoder-only": {},
    "tiny-prefix-lm": {"prefix_lm": True},
    "tiny-encoder-decoder": {"encoder_decoder": True},
}
VOCAB_SIZE = 300


def fixture_path(name: str) -> Path:
    return Path(__file__).parents[1] / "fixtures" / name


def fixture_net(name: str) -> TinyNet:
    return TinyNet(vocab_size=VOCAB_SIZE, num_layers=1, seed=3, end_boost=2.5, **FIXTURES[name])
