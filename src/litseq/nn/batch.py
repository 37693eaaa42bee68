"""The batch contract: what a DataModule yields and a module reads.

Every tensor is right padded. `labels` are aligned with the logits: position t of the logits predicts position t of the
labels, so nothing is shifted inside a model.
"""

from typing import NotRequired, TypedDict

from torch import Tensor

IGNORE_INDEX = -100
"""The label of a position that takes no part in the loss (the default of `torch.nn.functional.cross_entropy`)."""


class EncoderDecoderBatch(TypedDict):
    """Pairs for an encoder-decoder: B rows, S source tokens, T target tokens."""

    input_ids: Tensor
    """Source tokens, int64 [B, S]."""
    attention_mask: Tensor
    """True where `input_ids` holds a token and not padding, bool [B, S]."""
    decoder_input_ids: Tensor
    """The target behind its start token, int64 [B, T]."""
    labels: Tensor
    """The target with its end token, int64 [B, T], `IGNORE_INDEX` on padding."""


class DecoderOnlyBatch(TypedDict):
    """Sequences for a decoder-only model: B rows, T tokens."""

    input_ids: Tensor
    """Tokens, int64 [B, T]."""
    labels: Tensor
    """The token that follows each position, int64 [B, T], `IGNORE_INDEX` where no loss is wanted."""
    attention_mask: NotRequired[Tensor]
    """True where `input_ids` holds a token and not padding, bool [B, T]."""
    segment_ids: NotRequired[Tensor]
    """Packed rows: the document (1, 2, ...) each token belongs to, 0 on padding, int64 [B, T]."""
    prefix_lengths: NotRequired[Tensor]
    """Tokens of the prefix that a prefix-LM sees whole, int64 [B]."""
