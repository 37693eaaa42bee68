"""Arms of equal weight, over many random sizes; nothing is trained."""

import random

import pytest

from litseq.compare.sizes import count_parameters, match_parameters
from litseq.errors import UsageError
from litseq.models import DecoderOnly, EncoderDecoder

CLASSES = ("litseq.models.EncoderDecoder", "litseq.models.DecoderOnly")


def draw(generator):
    heads = generator.choice([1, 2, 4, 8])
    return {
        "vocab_size": generator.choice([60, 500, 2000]),
        "embed_dim": heads * 2 * generator.randint(4, 24),
        "num_heads": heads,
        "num_layers": generator.randint(1, 6),
        "activation": generator.choice(["swiglu", "gelu"]),
        "tie_embeddings": generator.choice([True, False]),
    }


@pytest.mark.parametrize("seed", range(10))
def test_random_arms_of_one_width_meet_within_two_percent(seed):
    generator = random.Random(seed)
    reference, other = generator.sample(CLASSES, 2)
    args = draw(generator)
    target = count_parameters(reference, args)
    size = match_parameters(other, args | {"num_layers": generator.randint(1, 6)}, target)
    built = {"EncoderDecoder": EncoderDecoder, "DecoderOnly": DecoderOnly}[other.rpartition(".")[2]](**size.init_args)
    weight = sum(parameter.numel() for parameter in built.parameters())
    assert weight == size.parameters
    assert abs(weight - target) / target <= 0.02
    assert size.init_args["embed_dim"] % args["num_heads"] == 0


def test_an_arm_that_fits_is_left_alone_and_a_change_is_said():
    args = {"vocab_size": 128, "embed_dim": 128, "num_heads": 4, "num_layers": 3, "max_seq_len": 64}
    target = count_parameters(CLASSES[0], args)
    assert match_parameters(CLASSES[1], args | {"num_layers": 7}, target).changes == ""
    changed = match_parameters(CLASSES[1], args, target)
    assert changed.changes == "num_layers 3 -> 7"
    assert changed.init_args["num_layers"] == 7


def test_the_share_of_a_decoder_is_kept():
    args = {"vocab_size": 128, "embed_dim": 64, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 1}
    size = match_parameters(CLASSES[0], args, 3 * count_parameters(CLASSES[0], args))
    assert size.init_args["num_decoder_layers"] == max(1, round(size.init_args["num_layers"] / 3))


def test_what_cannot_be_is_one_line():
    with pytest.raises(UsageError, match=r"arm x: .*embeddim"):
        match_parameters(CLASSES[1], {"embeddim": 3}, 1000, where="arm x")
    with pytest.raises(UsageError, match="no size within 2 %"):
        match_parameters(CLASSES[1], {"vocab_size": 100_000, "embed_dim": 64}, 10, where="arm x")
