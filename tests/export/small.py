"""Small modules with weights rough enough that a wrong one shows."""

import torch

from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.text import Tokenizer

TEXTS = ["the quick brown fox jumps over the lazy dog", "zwei mal drei macht vier und drei macht neune"]


def small_tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS * 3, vocab_size=60)


def small_module(cls: type[SequenceModule] = DecoderOnly, **changes: object) -> SequenceModule:
    torch.manual_seed(0)
    values = {"vocab_size": 60, "embed_dim": 64, "num_layers": 2, "num_heads": 4, "max_seq_len": 40, "dropout": 0.0}
    module = cls(**values | changes)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return module.eval()


def small_translator(**changes: object) -> SequenceModule:
    return small_module(EncoderDecoder, **changes)
