"""What training costs, in floating-point operations by formula.

Six per weight and token: two forward, four backward (https://arxiv.org/abs/2001.08361, section 2.1), for every matrix and
the tokens that it meets, the output projection at labelled positions only, token tables not at all. Attention adds 12 per
layer, query, key and width (https://arxiv.org/abs/2204.02311, appendix B); masks are not counted as saving anything.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from litseq.models import SequenceModule
from litseq.nn.batch import IGNORE_INDEX


@dataclass
class Tokens:
    """Sums over the rows of batches: everything that the cost of them depends on."""

    source: int = 0
    target: int = 0
    """Tokens that a decoder reads; for a decoder-only model all of them."""
    labels: int = 0
    source_source: int = 0
    target_target: int = 0
    target_source: int = 0
    positions: int = 0
    """Places in the batches, padding included."""

    @property
    def read(self) -> int:
        """Tokens that the model has read, padding not counted."""
        return self.source + self.target

    def add(self, batch: Mapping[str, Tensor]) -> None:
        """Take a batch in; see `litseq.nn.batch`."""
        rows = batch["attention_mask"].sum(dim=1)
        self.labels += int((batch["labels"] != IGNORE_INDEX).sum())
        self.positions += batch["input_ids"].numel()
        if "decoder_input_ids" not in batch:
            self.target += int(rows.sum())
            self.target_target += int((rows * rows).sum())
            return
        # A target is labelled from its first token to its end; its start tokens in front are no more than a few.
        targets = (batch["labels"] != IGNORE_INDEX).sum(dim=1)
        self.positions += batch["decoder_input_ids"].numel()
        self.source += int(rows.sum())
        self.target += int(targets.sum())
        self.source_source += int((rows * rows).sum())
        self.target_target += int((targets * targets).sum())
        self.target_source += int((targets * rows).sum())

    def to_dict(self) -> dict[str, int]:
        """Plain numbers, for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True)
class Cost:
    """The weights of a module, by the tokens that they meet."""

    encoder: int
    decoder: int
    memory: int
    """Cross attention's projections of keys and values: in the decoder, and met by source tokens."""
    output: int
    encoder_attention: int
    """Layers times the width of all heads."""
    decoder_attention: int
    cross_attention: int

    @classmethod
    def of(cls, module: SequenceModule) -> "Cost":
        """Count a module's weights; it may be one without memory."""
        encoder = getattr(module, "encoder", None)
        config: Any = module.decoder.config
        heads = config.num_heads * config.head_width
        crossed = [layer for layer in module.decoder.layers if getattr(layer, "cross_attention", None) is not None]
        memory = len(crossed) * 2 * config.kv_heads * config.head_width * config.embed_dim
        return cls(
            encoder=0 if encoder is None else _weights(encoder.layers),
            decoder=_weights(module.decoder.layers) - memory,
            memory=memory,
            output=config.vocab_size * config.embed_dim,
            encoder_attention=0 if encoder is None else len(encoder.layers) * heads,
            decoder_attention=len(module.decoder.layers) * heads,
            cross_attention=len(crossed) * heads,
        )

    def training_flops(self, tokens: Tokens) -> float:
        """Operations of training on these tokens."""
        matrices = (
            (self.encoder + self.memory) * tokens.source + self.decoder * tokens.target + self.output * tokens.labels
        )
        attention = (
            self.encoder_attention * tokens.source_source
            + self.decoder_attention * tokens.target_target
            + self.cross_attention * tokens.target_source
        )
        return 6.0 * matrices + 12.0 * attention


def _weights(layers: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layers.parameters())
