"""The building blocks in plain torch: configuration, one attention block, layers, the two stacks."""

from litseq.nn.attention import Attention, KeyValue
from litseq.nn.batch import IGNORE_INDEX, DecoderOnlyBatch, EncoderDecoderBatch
from litseq.nn.config import TransformerConfig
from litseq.nn.feed_forward import FeedForward, build_norm
from litseq.nn.layers import DecoderLayer, EncoderLayer
from litseq.nn.positions import Learned, PositionScheme, Rotary, Sinusoidal
from litseq.nn.scope import Scope, Step
from litseq.nn.stacks import TransformerDecoder, TransformerEncoder

__all__ = [
    "IGNORE_INDEX",
    "Attention",
    "DecoderLayer",
    "DecoderOnlyBatch",
    "EncoderDecoderBatch",
    "EncoderLayer",
    "FeedForward",
    "KeyValue",
    "Learned",
    "PositionScheme",
    "Rotary",
    "Scope",
    "Sinusoidal",
    "Step",
    "TransformerConfig",
    "TransformerDecoder",
    "TransformerEncoder",
    "build_norm",
]
