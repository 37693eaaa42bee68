"""Small modules and batches of uneven lengths for the tests of the models."""

import torch

from litseq.models import DecoderOnly, EncoderDecoder
from litseq.nn.batch import IGNORE_INDEX

VOCAB_SIZE = 23
TINY = {
    "vocab_size": VOCAB_SIZE,
    "embed_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "max_seq_len": 24,
    "dropout": 0.0,
}


def tiny_encoder_decoder(**arguments):
    torch.manual_seed(0)
    return EncoderDecoder(**(TINY | arguments))


def tiny_decoder_only(**arguments):
    torch.manual_seed(0)
    return DecoderOnly(**(TINY | arguments))


def pairs(rows, seed):
    """Rows of (source, target), each of 1 to 8 random tokens."""
    generator = torch.Generator().manual_seed(seed)

    def row():
        length = int(torch.randint(1, 9, (), generator=generator))
        return torch.randint(5, VOCAB_SIZE, (length,), generator=generator).tolist()

    return [(row(), row()) for _ in range(rows)]


def pad(rows, value):
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def encoder_decoder_batch(rows):
    sources, targets = zip(*rows, strict=True)
    sources = [[*source, 2] for source in sources]
    return {
        "input_ids": pad(sources, 0),
        "attention_mask": pad([[True] * len(source) for source in sources], False),
        "decoder_input_ids": pad([[1, *target] for target in targets], 0),
        "labels": pad([[*target, 2] for target in targets], IGNORE_INDEX),
    }


def decoder_only_batch(rows):
    prefixes = [[1, *source, 4] for source, _ in rows]
    whole = [prefix + target for prefix, (_, target) in zip(prefixes, rows, strict=True)]
    labels = [
        [IGNORE_INDEX] * (len(prefix) - 1) + [*target, 2] for prefix, (_, target) in zip(prefixes, rows, strict=True)
    ]
    return {
        "input_ids": pad(whole, 0),
        "attention_mask": pad([[True] * len(row) for row in whole], False),
        "labels": pad(labels, IGNORE_INDEX),
        "prefix_lengths": torch.tensor([len(prefix) for prefix in prefixes]),
    }
