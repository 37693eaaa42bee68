"""LightningModules for sequences: an encoder-decoder, a decoder-only model, and what they share."""

from litseq.models.averaging import average_checkpoints as average_checkpoints
from litseq.models.base import SequenceModule as SequenceModule
from litseq.models.checkpoint import load_module as load_module
from litseq.models.decoder_only import DecoderOnly as DecoderOnly
from litseq.models.encoder_decoder import EncoderDecoder as EncoderDecoder
from litseq.models.loss import LossSum as LossSum
from litseq.models.muon import MuonAdamW as MuonAdamW

__all__ = [
    "DecoderOnly",
    "EncoderDecoder",
    "LossSum",
    "MuonAdamW",
    "SequenceModule",
    "average_checkpoints",
    "load_module",
]
