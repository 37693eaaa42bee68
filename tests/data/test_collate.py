import numpy as np
import torch

from litseq.data.collate import CollateBlocks, CollateDecoderOnly, CollateEncoderDecoder, CollatePrompts

PAD, BOS, EOS, SEP, IGNORED = 0, 1, 2, 4, -100


def ids(*values):
    return np.array(values, dtype=np.int32)


def check(batch, expected):
    assert set(batch) == set(expected)
    for name, value in expected.items():
        assert batch[name].tolist() == value, name
        assert batch[name].dtype == (torch.bool if name == "attention_mask" else torch.int64)


def test_encoder_decoder():
    batch = CollateEncoderDecoder(PAD, (BOS,))([(ids(10, 11, EOS), ids(20, EOS)), (ids(12, EOS), ids(21, 22, EOS))])
    check(
        batch,
        {
            "input_ids": [[10, 11, EOS], [12, EOS, PAD]],
            "attention_mask": [[True, True, True], [True, True, False]],
            "decoder_input_ids": [[BOS, 20, PAD], [BOS, 21, 22]],
            "labels": [[20, EOS, IGNORED], [21, 22, EOS]],
        },
    )


def test_encoder_decoder_with_two_start_tokens():
    batch = CollateEncoderDecoder(PAD, (BOS, 9))([(ids(10, EOS), ids(20, EOS))])
    assert batch["decoder_input_ids"].tolist() == [[BOS, 9, 20]]
    assert batch["labels"].tolist() == [[IGNORED, 20, EOS]]


def test_decoder_only_with_loss_on_the_target():
    examples = [(ids(BOS, 10, 11, SEP), ids(20, EOS)), (ids(BOS, 12, SEP), ids(21, EOS))]
    batch = CollateDecoderOnly(PAD, loss_on_prefix=False)(examples)
    check(
        batch,
        {
            "input_ids": [[BOS, 10, 11, SEP, 20], [BOS, 12, SEP, 21, PAD]],
            "labels": [[IGNORED, IGNORED, IGNORED, 20, EOS], [IGNORED, IGNORED, 21, EOS, IGNORED]],
            "attention_mask": [[True] * 5, [True] * 4 + [False]],
            "prefix_lengths": [4, 3],
        },
    )


def test_decoder_only_with_loss_on_everything():
    batch = CollateDecoderOnly(PAD, loss_on_prefix=True)([(ids(BOS, 10, SEP), ids(20, EOS))])
    assert batch["labels"].tolist() == [[10, SEP, 20, EOS]]


def test_blocks():
    examples = [(ids(BOS, 10, BOS), ids(10, EOS, EOS), ids(1, 1, 2)), (ids(BOS), ids(EOS), ids(1))]
    check(
        CollateBlocks(PAD, 4)(examples),
        {
            "input_ids": [[BOS, 10, BOS, PAD], [BOS, PAD, PAD, PAD]],
            "labels": [[10, EOS, EOS, IGNORED], [EOS, IGNORED, IGNORED, IGNORED]],
            "attention_mask": [[True, True, True, False], [True, False, False, False]],
            "segment_ids": [[1, 1, 2, 0], [1, 0, 0, 0]],
        },
    )


def test_prompts():
    batch = CollatePrompts(PAD, is_prefix=True)([(ids(BOS, 10, SEP),), (ids(BOS, SEP),)])
    check(
        batch,
        {
            "input_ids": [[BOS, 10, SEP], [BOS, SEP, PAD]],
            "attention_mask": [[True, True, True], [True, True, False]],
            "prefix_lengths": [3, 2],
        },
    )
    assert set(CollatePrompts(PAD, is_prefix=False)([(ids(5),)])) == {"input_ids", "attention_mask"}
