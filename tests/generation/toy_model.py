"""A tiny recurrent language model in numpy: a step model whose rows can be checked by recomputing everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation import FloatArray, IntArray, Prompt, Scores


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
        self.states: list[np.ndarray] = []
        self.lengths: list[int] = []
        self.calls: list[tuple[str, int]] = []
        self.asked: list[int] = []

    @property
    def rows(self) -> int:
        return len(self.states)

    def admit(self, prompts: Sequence[Prompt], top_k: int = 0) -> Scores:
        self.calls.append(("admit", len(prompts)))
        for prompt in prompts:
            state = np.zeros(8)
            for token in [*(prompt.source or ()), *prompt.ids]:
                state = self._next(state, token)
            self.states.append(state)
            self.lengths.append(len(prompt.ids))
        return self._scores(self.states[-len(prompts) :], top_k)

    def advance(self, tokens: IntArray, top_k: int = 0) -> Scores:
        assert len(tokens) == self.rows
        self.calls.append(("advance", self.rows))
        self.states = [self._next(state, token) for state, token in zip(self.states, tokens, strict=True)]
        self.lengths = [length + 1 for length in self.lengths]
        assert max(self.lengths) <= self.max_length, "the loop ran past the model's limit"
        return self._scores(self.states, top_k)

    def keep(self, rows: IntArray) -> None:
        self.states = [self.states[i] for i in rows]
        self.lengths = [self.lengths[i] for i in rows]

    def logits(self, ids: Sequence[int], source: Sequence[int] = ()) -> FloatArray:
        """[V] what the model says behind `ids`, from nothing."""
        state = np.zeros(8)
        for token in [*source, *ids]:
            state = self._next(state, token)
        return (state @ self._head).astype(np.float32)

    def _next(self, state: np.ndarray, token: int) -> np.ndarray:
        return np.tanh(self._recur @ state + self._embed[token])

    def _scores(self, states: Sequence[np.ndarray], top_k: int) -> Scores:
        self.asked.append(top_k)
        logits = np.stack([(state @ self._head).astype(np.float32) for state in states])
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
