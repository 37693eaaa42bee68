"""What a user writes: subclasses outside the package."""

from torch import nn

from litseq.models import DecoderOnly, EncoderDecoder
from litseq.models.loss import LossSum
from litseq.nn import TransformerDecoder


class HalvedHead(TransformerDecoder):
    """A decoder that computes something else with the same weights."""

    def logits(self, hidden):
        return super().logits(hidden) / 2


class OwnDecoder(DecoderOnly):
    """Replaces the decoder; the argument of its own is in `hparams` when the seam is called."""

    def __init__(self, depth: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.extra_norm = nn.LayerNorm(depth)

    def build_decoder(self, config):
        return HalvedHead(config.replace(num_layers=self.hparams["depth"]))

    def generation_options(self):
        return {**super().generation_options(), "max_new_tokens": 5}


class SameWeights(EncoderDecoder):
    """Has the weights of its base under the same names: only the class path tells them apart."""

    def __init__(self, weight: float = 2.0, **kwargs):
        super().__init__(**kwargs)
        self.save_hyperparameters()  # as Lightning's manual has it, with the optimiser among the keyword arguments

    def compute_loss(self, batch):
        loss = super().compute_loss(batch)
        return LossSum(loss.loss_sum * self.hparams["weight"], loss.token_count)


class Outer:
    class Nested(DecoderOnly):
        pass
