"""The slow and obvious way to compute what a bundle computes: whole sequences, one row at a time, no cache, no padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from litseq.nn import TransformerDecoder, TransformerEncoder


@dataclass(frozen=True)
class Row:
    """One sequence to check: what the encoder reads, what the decoder is given first, and what follows."""

    source: tuple[int, ...] | None
    prompt: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Everything the decoder reads."""
        return self.prompt + self.continuation


class Reference:
    """The torch side of a parity check."""

    def __init__(self, decoder: TransformerDecoder, encoder: TransformerEncoder | None, prefix: bool) -> None:
        self.decoder = decoder
        self.encoder = encoder
        self.prefix = prefix

    @torch.no_grad()
    def logits(self, row: Row) -> NDArray[np.float32]:
        """Logits of every position of a row, [T, V]."""
        ids = torch.tensor([row.tokens])
        memory = None if self.encoder is None or row.source is None else self.encoder(torch.tensor([row.source]))
        prefix = torch.tensor([len(row.prompt)]) if self.prefix else None
        hidden = self.decoder(ids, prefix_lengths=prefix, memory=memory)
        return self.decoder.logits(hidden)[0].float().numpy()

    def greedy(self, source: Sequence[int] | None, prompt: Sequence[int], steps: int) -> Row:
        """A row that continues a prompt by the likeliest tokens."""
        row = Row(None if source is None else tuple(source), tuple(prompt), ())
        for _ in range(steps):
            best = int(self.logits(row)[-1].argmax())
            row = Row(row.source, row.prompt, (*row.continuation, best))
        return row
