"""The models that are measured, by name. Light: every system's own environment reads this file."""

from dataclasses import dataclass

VOCAB = 32000
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A model: its family, its sizes, and what its weights are made to do."""

    name: str
    family: str  # llama, gpt2, marian
    layers: int
    dim: int
    heads: int
    ffn: int
    vocab: int
    kv_heads: int | None = None
    max_length: int = 1024
    behaviour: str = "random"  # random; chain: a fixed next token; copy: the output is the source
    title: str = ""

    @property
    def encoder_decoder(self) -> bool:
        return self.family == "marian"

    @property
    def description(self) -> str:
        layers = f"{self.layers}+{self.layers}" if self.encoder_decoder else str(self.layers)
        heads = f"{self.heads}/{self.kv_heads}" if self.kv_heads else str(self.heads)
        return f"{self.title}: {layers} layers, d {self.dim}, {heads} heads, ffn {self.ffn}, vocab {self.vocab}"


_LLAMA = {"family": "llama", "layers": 12, "dim": 768, "heads": 12, "kv_heads": 4, "ffn": 2048, "vocab": VOCAB}
_BASE = {"family": "marian", "layers": 6, "dim": 512, "heads": 8, "ffn": 2048, "vocab": VOCAB, "max_length": 512}

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama", title="llama-like decoder", **_LLAMA),
        Shape("gpt2", "gpt2", 12, 768, 12, 3072, 50257, title="GPT-2 small shape"),
        Shape("base", title="Transformer-base encoder-decoder", **_BASE),
        Shape("tiny", "marian", 4, 128, 4, 256, 8000, max_length=512, title="tiny encoder-decoder"),
        Shape("1b", "llama", 16, 2048, 32, 5632, VOCAB, 8, title="1.1 B llama-like decoder"),
        Shape("chain", behaviour="chain", title="llama-like decoder whose next token is a fixed one", **_LLAMA),
        Shape("copier", behaviour="copy", title="Transformer-base whose output is its source", **_BASE),
    )
}


def successor(token: int) -> int:
    """The token that a `chain` model puts behind `token`: one long cycle through the vocabulary."""
    return (token * 21 + 7) % VOCAB
