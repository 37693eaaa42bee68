"""`TorchStepModel`: the slow and obvious way to decode, the reference that the exported graphs are held against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litseq.errors import UsageError
from litseq.generation import IntArray, Prompt, Scores
from litseq.models.base import SequenceModule


@dataclass(frozen=True)
class _SavedIds:
    ids: list[int]
    nbytes: int = 0


class TorchStepModel:
    """A `StepModel` without any cache: every step reads each row again from its first token.

    It goes through `hidden_states` as training does, so it needs nothing of a subclass that training does not need,
    and it shares neither the cached attention nor its masks with what it checks.
    """

    def __init__(self, module: SequenceModule) -> None:
        """Decode with a module, which must be in evaluation mode."""
        if module.training:
            raise ValueError("the module is in training mode, expected evaluation mode: call module.eval() first")
        self._module = module
        self._prompts: list[Prompt] = []
        self._ids: list[list[int]] = []

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self._module.hparams["vocab_size"])

    @property
    def max_length(self) -> int:
        """Tokens that a row may hold."""
        return int(self._module.hparams["max_seq_len"])

    @property
    def rows(self) -> int:
        """Rows held now."""
        return len(self._ids)

    @property
    def lengths(self) -> IntArray:
        """[rows] tokens that each row holds."""
        return np.array([len(ids) for ids in self._ids], np.int64)

    @property
    def reads_in_chunks(self) -> bool:
        """Whether a prompt may be read in pieces."""
        return not getattr(self._module, "prefix_lm", False)

    @property
    def can_rewind(self) -> bool:
        """Always: nothing but ids is kept."""
        return True

    def admit(self, prompts: Sequence[Prompt]) -> None:
        """Append rows; see `StepModel`."""
        for prompt in prompts:
            longest = max(len(prompt.ids), len(prompt.source or ()))
            if longest > self.max_length:
                raise UsageError(f"a prompt has {longest} tokens, the model takes {self.max_length}: shorten it")
        self._prompts += prompts
        self._ids += [[] for _ in prompts]

    def read(self, first: int, ids: Sequence[Sequence[int]], top_k: int = 0, *, every: bool = False) -> Scores:
        """Append tokens to some rows and score what follows; see `StepModel`."""
        last: list[list[int]] = []
        for row, new in enumerate(ids, first):
            before = len(self._ids[row])
            self._ids[row] += new
            last.append(list(range(before, len(self._ids[row]))) if every else [len(self._ids[row]) - 1])
        return self._score(slice(first, first + len(ids)), last)

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append one token to each of the first rows and score the next; see `StepModel`."""
        return self.read(0, [[token] for token in tokens.tolist()], top_k)

    def rewind(self, lengths: IntArray) -> None:
        """Shorten the first rows; see `StepModel`."""
        for row, length in enumerate(lengths.tolist()):
            del self._ids[row][length:]

    def copy(self, row: int, source: int, length: int) -> None:
        """Begin a row as another does; see `StepModel`."""
        self._ids[row] = self._ids[source][:length]

    def save(self, row: int, length: int) -> "_SavedIds":
        """Copy the beginning of a row; see `StepModel`."""
        return _SavedIds(self._ids[row][:length])

    def load(self, row: int, saved: "_SavedIds", length: int) -> None:
        """Begin a row with what was saved; see `StepModel`."""
        self._ids[row] = saved.ids[:length]

    def keep(self, rows: IntArray) -> None:
        """Drop, reorder or repeat rows; see `StepModel`."""
        self._prompts = [self._prompts[row] for row in rows.tolist()]
        self._ids = [list(self._ids[row]) for row in rows.tolist()]

    @torch.inference_mode()
    def _score(self, rows: slice, places: Sequence[Sequence[int]]) -> Scores:
        """The scores behind some places of each row, row after row."""
        ids, prompts = self._ids[rows], self._prompts[rows]
        if not ids:
            return Scores(np.zeros((0, self.vocab_size), np.float32))
        hidden = self._module.hidden_states(self._batch(ids, prompts))  # [B, T, D]
        chosen = torch.cat([hidden[row, torch.tensor(at)] for row, at in enumerate(places)])  # [N, D]
        return Scores(self._module.decoder.logits(chosen).float().cpu().numpy())

    def _batch(self, ids: Sequence[Sequence[int]], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """The batch a data module would have made of these rows, labels aside."""
        tokens, mask = self._pad(ids)
        sources = [prompt.source for prompt in prompts if prompt.source is not None]
        if sources:
            source_tokens, source_mask = self._pad(sources)
            return {"input_ids": source_tokens, "attention_mask": source_mask, "decoder_input_ids": tokens}
        prefix_lengths = torch.tensor([len(prompt.ids) - prompt.forced for prompt in prompts], device=tokens.device)
        return {"input_ids": tokens, "attention_mask": mask, "prefix_lengths": prefix_lengths}

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Right pad to [N, longest], with the mask of what is no padding."""
        device = self._module.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64, device=device)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = torch.tensor(row, device=device)
        return tokens, torch.arange(tokens.shape[1], device=device) < lengths[:, None]
