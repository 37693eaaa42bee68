"""A tiny recurrent language model in numpy: a step model whose rows can be checked by recomputing everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from litseq.generation import FloatArray, IntArray, Prompt, Scores


@dataclass
class SavedIds:
    ids: list[int]

    @property
    def nbytes(self) -> int:
        return 8 * len(self.ids)


class ToyModel:
    """`state = tanh(W state + E[token])`, started by the source; row by row, so that no batch can leak into another."""

    def __init__(self, vocab_size: int = 11, max_length: int = 64, seed: int = 6, has_top_k: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.vocab_size = vocab_size
        self.max_length = max_length
        self.has_top_k = has_top_k
        self._embed = rng.standard_normal((vocab_size, 8))
        self._recur = rng.standard_normal((8, 8)) / 2
        self._head = rng.standard_normal((8, vocab_size)).astype(np.float64) * 1.5
        self.ids: list[list[int]] = []
        self.sources: list[Sequence[int]] = []
        self.reads_in_chunks = self.can_rewind = True
        self.moved = 0
        self.calls: list[tuple[str, int]] = []
        self.asked: list[int] = []

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> IntArray:
        return np.array([len(ids) for ids in self.ids], np.int64)

    def admit(self, prompts: Sequence[Prompt]) -> None:
        self.calls.append(("admit", len(prompts)))
        for prompt in prompts:
            self.sources.append(prompt.source or ())
            self.ids.append([])

    def read(self, first: int, ids: Sequence[Sequence[int]], top_k: int = 0, *, every: bool = False) -> Scores:
        self.calls.append(("read", sum(len(row) for row in ids)))
        scored = []
        held = max(len(row) for row in self.ids[first : first + len(ids)])
        assert held + max(map(len, ids)) <= self.max_length, "the padding of a short row has no positions"
        for row, new in enumerate(ids, first):
            assert new
            for i, token in enumerate(new):
                self.ids[row].append(int(token))
                if every or i == len(new) - 1:
                    scored.append(self.logits(self.ids[row], self.sources[row]))
            assert len(self.ids[row]) <= self.max_length, "the loop ran past the model's limit"
        return self._scores(np.stack(scored), top_k)

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        scores = self.read(0, [[token] for token in tokens], top_k)
        self.calls[-1] = ("advance", len(tokens))
        return scores

    def keep(self, rows: IntArray) -> None:
        self.moved += sum(i != row for i, row in enumerate(rows))
        self.ids = [list(self.ids[i]) for i in rows]
        self.sources = [self.sources[i] for i in rows]

    def rewind(self, lengths: IntArray) -> None:
        for row, length in enumerate(lengths):
            assert 0 < length <= len(self.ids[row])
            del self.ids[row][length:]

    def copy(self, row: int, source: int, length: int) -> None:
        assert not self.ids[row]
        self.ids[row] = self.ids[source][:length]

    def save(self, row: int, length: int) -> SavedIds:
        assert length <= len(self.ids[row])
        return SavedIds(self.ids[row][:length])

    def load(self, row: int, saved: SavedIds, length: int) -> None:
        assert not self.ids[row]
        self.ids[row] = saved.ids[:length]

    def logits(self, ids: Sequence[int], source: Sequence[int] = ()) -> FloatArray:
        """[V] what the model says behind `ids`, from nothing."""
        state = np.zeros(8)
        for token in [*source, *ids]:
            state = self._next(state, token)
        return (state @ self._head).astype(np.float32)

    def _next(self, state: np.ndarray, token: int) -> np.ndarray:
        return np.tanh(self._recur @ state + self._embed[token])

    def _scores(self, logits: FloatArray, top_k: int) -> Scores:
        self.asked.append(top_k)
        if not top_k or not self.has_top_k:
            return Scores(logits)
        log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        ids = np.argsort(-logits, -1, kind="stable")[:, :top_k]
        return Scores(logits, ids, np.take_along_axis(log_probs, ids, -1))


def slow_greedy(model: ToyModel, prompt: Prompt, steps: int, end: int) -> list[int]:
    """Greedy decoding without rows, caches or a loop to share them."""
    ids = list(prompt.ids)
    for _ in range(steps):
        token = int(model.logits(ids, prompt.source or ()).argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt.ids) :]
