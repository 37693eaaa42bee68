"""The configuration refuses what cannot be, all of it in one line."""

import dataclasses

import pytest

from litseq.nn import TransformerConfig


def test_defaults_are_resolved() -> None:
    config = TransformerConfig(vocab_size=10, embed_dim=96, num_heads=6)
    assert (config.kv_heads, config.head_width) == (6, 16)
    assert config.ffn_width == 256  # two thirds of 384, already a multiple of 32
    assert config.replace(activation="gelu").ffn_width == 384
    assert config.replace(ffn_dim=7).ffn_width == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed_dim": 30, "num_heads": 4}, ("embed_dim 30", "num_heads 4", "head_dim")),
        ({"num_heads": 4, "num_kv_heads": 3}, ("num_heads 4", "num_kv_heads 3")),
        ({"head_dim": 7}, ("head_dim is 7", "even")),
        ({"norm": "batch"}, ("norm is 'batch'", "rms, layer")),
        ({"dropout": 1.0, "num_layers": 0}, ("dropout is 1.0", "num_layers is 0")),
        ({"vocab_size": 0, "position": "alibi"}, ("vocab_size is 0", "position is 'alibi'")),
        ({"ffn_dim": 0}, ("ffn_dim is 0",)),
    ],
)
def test_impossible_values_are_listed(changes: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="TransformerConfig") as caught:
        TransformerConfig(**{"vocab_size": 10, **changes})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TransformerConfig(vocab_size=10).vocab_size = 11
