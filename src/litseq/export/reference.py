"""The slow and obvious way to compute what a bundle computes: whole sequences, one row at a time, no cache, no padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from litseq.errors import ExportError
from litseq.models import SequenceModule
from litseq.nn import TransformerDecoder, TransformerEncoder

SAME = 1e-4
"""Largest difference of two log-probabilities that torch computes in two ways, relative to their size."""
UNSEEN = 104.0
"""So far below the best logit, a softmax in single precision is 0."""


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


def compare_logits(expected: NDArray[np.float32], got: NDArray[np.float32]) -> tuple[float, float]:
    """The largest difference of two logits by their scale, infinite for what is no number, and the scale.

    Of logits that a softmax can tell from nothing only: a token masked by a huge number would make every error small.
    """
    seen, seen_by_got = (logits >= logits.max(-1, keepdims=True) - UNSEEN for logits in (expected, got))
    scale = max(1.0, float(np.sqrt(np.mean(np.square(expected[seen]))))) if seen.any() else 1.0
    either = seen | seen_by_got
    difference = float(np.abs(expected[either] - got[either]).max()) / scale if either.any() else np.inf
    sound = np.isfinite(difference) and not np.isnan(expected).any() and not np.isnan(got).any()
    return difference if sound else float("inf"), scale


@torch.no_grad()
def check_whole_module(module: SequenceModule, reference: Reference) -> None:
    """Refuse a module that computes something outside of its stacks: no graph would hold it, and no parity check miss it.

    Raises:
        ExportError: `hidden_states`, which training goes through, or `forward` gives something else than the stacks.
    """
    generator, limit = np.random.default_rng(0), int(module.hparams["max_seq_len"])
    lengths = min(6, limit), min(4, limit), max(0, min(5, limit - 4))
    vocab = int(module.hparams["vocab_size"])
    source, prompt, rest = (tuple(generator.integers(0, vocab, length).tolist()) for length in lengths)
    row = Row(source if reference.encoder is not None else None, prompt, rest)
    with torch.compiler.set_stance("force_eager"):
        found = dict(_module_logits(module, row, reference.prefix))
    expected = torch.from_numpy(reference.logits(row)).log_softmax(-1).numpy()
    if np.isnan(expected).any():
        raise ExportError(
            f"{type(module).__name__} gives logits that are no numbers (nan): its training diverged, or its weights are "
            "damaged; take an earlier checkpoint"
        )
    for method, logits in found.items():
        difference, _ = compare_logits(expected, logits.float().log_softmax(-1).numpy())
        if difference > SAME:
            raise ExportError(
                f"{method} of {type(module).__name__} gives other logits than its stacks do, by {difference:.3g}, and a "
                "bundle holds the stacks alone; move what it adds into them by build_encoder or build_decoder, see "
                "docs/subclassing.md"
            )


def _module_logits(module: SequenceModule, row: Row, prefix_lm: bool) -> Iterator[tuple[str, Tensor]]:
    """The logits [T, V] of a row by the methods of the whole module."""
    ids, prefix = torch.tensor([row.tokens]), torch.tensor([len(row.prompt)])
    read = ids if row.source is None else torch.tensor([row.source])
    batch = {"input_ids": read, "attention_mask": torch.ones_like(read, dtype=torch.bool)}
    batch |= {"prefix_lengths": prefix} if row.source is None else {"decoder_input_ids": ids}
    try:
        hidden = module.hidden_states(batch)
    except Exception as error:
        raise ExportError(
            f"hidden_states of {type(module).__name__} cannot do with {', '.join(batch)}, and a bundle is given no more: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error
    yield "hidden_states", module.decoder.logits(hidden)[0]
    try:
        logits = module(ids, None, prefix if prefix_lm else None) if row.source is None else module(read, ids)
    except Exception:  # a forward with arguments of its own, which neither training nor generation calls
        return
    if isinstance(logits, Tensor) and logits.shape == (*ids.shape, int(module.hparams["vocab_size"])):
        yield "forward", logits[0]
