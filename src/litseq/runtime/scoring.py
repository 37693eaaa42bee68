"""Log-probabilities of given outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from litseq.generation import FloatArray, Prompt, Scores
from litseq.generation.packing import CALL_TOKENS, groups
from litseq.runtime.graphs import Graphs
from litseq.runtime.rows import Rows

_LOGITS_BYTES = 64 * 2**20  # of one call


def score_targets(graphs: Graphs, prompts: Sequence[Prompt], targets: Sequence[Sequence[int]]) -> list[list[float]]:
    """The log-probability of each token of each target, given its prompt and the target's tokens before it."""
    result: list[list[float]] = [[] for _ in prompts]
    most = max(1, _LOGITS_BYTES // (4 * graphs.manifest.model.vocab_size))
    # What the model reads: prompt and target but for the target's last token, which is only predicted.
    reads = [[*prompt.ids, *target[:-1]] for prompt, target in zip(prompts, targets, strict=True)]
    order = sorted((i for i in range(len(prompts)) if targets[i]), key=lambda i: (len(reads[i]), prompts[i].length))
    rows = Rows(graphs)
    for start, stop in groups([len(reads[i]) for i in order], min(most, CALL_TOKENS)):
        chosen = order[start:stop]
        rows.reset()
        lengths = [len(prompts[i].ids) for i in chosen]
        where = rows.append(
            [Prompt(reads[i], prompts[i].source, len(reads[i]) - n) for i, n in zip(chosen, lengths, strict=True)]
        )
        values = _score_group(rows, where, [reads[i] for i in chosen], lengths, [targets[i] for i in chosen], most)
        for i, log_probs in zip(chosen, values, strict=True):
            result[i] = log_probs
    return result


def _score_group(
    rows: Rows,
    where: slice,
    reads: Sequence[Sequence[int]],
    prompt_lengths: Sequence[int],
    targets: Sequence[Sequence[int]],
    most: int,
) -> list[list[float]]:
    """Score rows that are read together: in one call, or a single long row in pieces of `most` tokens."""
    if len(reads) == 1 and len(reads[0]) > most:
        return [_score_long(rows, where, reads[0], prompt_lengths[0], targets[0], most)]
    longest = max(len(read) for read in reads)
    places = [
        range(i * longest + prompt - 1, i * longest + prompt - 1 + len(target))
        for i, (prompt, target) in enumerate(zip(prompt_lengths, targets, strict=True))
    ]
    logit_rows = np.array([place for row in places for place in row], np.int64)
    scores = _empty(len(logit_rows), rows)
    rows.call(where, reads, logit_rows, scores)
    flat = _log_probs(scores.logits, [token for target in targets for token in target])
    ends = np.cumsum([len(target) for target in targets])
    return [part.tolist() for part in np.split(flat, ends[:-1])]


def _score_long(
    rows: Rows, where: slice, read: Sequence[int], prompt_length: int, target: Sequence[int], most: int
) -> list[float]:
    # A prefix-LM must see its prompt in one call, so the first piece is at least that long.
    values: list[float] = []
    start, end = 0, max(most, prompt_length)
    while start < len(read):
        piece = read[start:end]
        first = max(start, prompt_length - 1)  # the first position that predicts a token of the target
        logit_rows = np.arange(min(first, end) - start, len(piece), dtype=np.int64)
        logit_rows = logit_rows if len(logit_rows) else np.zeros(1, np.int64)
        scores = _empty(len(logit_rows), rows)
        rows.call(where, [piece], logit_rows, scores)
        if first < start + len(piece):
            offset = first - (prompt_length - 1)
            values += _log_probs(scores.logits, target[offset : offset + len(logit_rows)]).tolist()
        start, end = start + len(piece), start + len(piece) + most
    return values


def _log_probs(logits: FloatArray, tokens: Sequence[int]) -> FloatArray:
    best = logits.max(-1)
    normalizer = best + np.log(np.exp(logits - best[:, None]).sum(-1))
    chosen: FloatArray = logits[np.arange(len(tokens)), list(tokens)] - normalizer
    return chosen


def _empty(count: int, rows: Rows) -> Scores:
    return Scores(np.zeros((count, rows.graphs.manifest.model.vocab_size), np.float32))
