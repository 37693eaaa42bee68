"""What the demo trains, and on how much; the tests shrink it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo. The defaults take about five minutes on two cores."""

    train_pairs: int = 48_000
    val_pairs: int = 500
    test_pairs: int = 1_000
    vocab_size: int = 128
    max_seq_len: int = 64
    embed_dim: int = 128
    num_heads: int = 4
    # An encoder layer has 12 D^2 weights, a decoder layer with cross attention 16 D^2, a decoder-only layer 12 D^2:
    # n + n layers of an encoder-decoder weigh what 7 n / 3 layers of a decoder-only do.
    encoder_decoder_layers: int = 3
    decoder_only_layers: int = 7
    max_tokens: int = 2_048
    epochs: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    seed: int = 0
