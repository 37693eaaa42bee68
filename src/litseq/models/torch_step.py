"""`TorchStepModel`: the slow and obvious way to decode, the reference that the exported graphs are held against."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from litseq.errors import UsageError
from litseq.generation import IntArray, Prompt, Scores
from litseq.models.base import SequenceModule


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

    def admit(self, prompts: Sequence[Prompt], top_k: int = 0) -> Scores:
        """Append rows and score their first token; see `StepModel`."""
        for prompt in prompts:
            longest = max(len(prompt.ids), len(prompt.source or ()))
            if longest > self.max_length:
                raise UsageError(f"a prompt has {longest} tokens, the model takes {self.max_length}: shorten it")
        first = self.rows
        self._prompts += prompts
        self._ids += [list(prompt.ids) for prompt in prompts]
        return self._score(slice(first, None))

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        """Append one token to every row and score the next; see `StepModel`."""
        for row, token in zip(self._ids, tokens.tolist(), strict=True):
            row.append(token)
        return self._score(slice(None))

    def keep(self, rows: IntArray) -> None:
        """Drop, reorder or repeat rows; see `StepModel`."""
        self._prompts = [self._prompts[row] for row in rows.tolist()]
        self._ids = [list(self._ids[row]) for row in rows.tolist()]

    @torch.inference_mode()
    def _score(self, rows: slice) -> Scores:
        ids, prompts = self._ids[rows], self._prompts[rows]
        if not ids:
            return Scores(np.zeros((0, self.vocab_size), np.float32))
        hidden = self._module.hidden_states(self._batch(ids, prompts))  # [N, T, D]
        last = torch.tensor([len(row) - 1 for row in ids], device=hidden.device)
        logits = self._module.decoder.logits(hidden[torch.arange(len(ids), device=hidden.device), last])  # [N, V]
        return Scores(logits.float().cpu().numpy())

    def _batch(self, ids: Sequence[Sequence[int]], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """The batch a data module would have made of these rows, labels aside."""
        tokens, mask = self._pad(ids)
        sources = [prompt.source for prompt in prompts if prompt.source is not None]
        if sources:
            source_tokens, source_mask = self._pad(sources)
            return {"input_ids": source_tokens, "attention_mask": source_mask, "decoder_input_ids": tokens}
        prefix_lengths = torch.tensor([len(prompt.ids) for prompt in prompts], device=tokens.device)
        return {"input_ids": tokens, "attention_mask": mask, "prefix_lengths": prefix_lengths}

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Right pad to [N, longest], with the mask of what is no padding."""
        device = self._module.device
        lengths = torch.tensor([len(row) for row in rows], device=device)
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64, device=device)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = torch.tensor(row, device=device)
        return tokens, torch.arange(tokens.shape[1], device=device) < lengths[:, None]
