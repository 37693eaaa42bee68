"""Span corruption: spans of a text are taken out, a sentinel left in the place of each, and the model puts them back.

The recipe of T5 (https://arxiv.org/abs/1910.10683, section 3.1.4): 15 % of the tokens in spans of 3 on average. It lets an
encoder-decoder learn from plain text.
"""

import numpy as np
from numpy.typing import NDArray

from litseq.data.datasets import Example, SequenceDataset
from litseq.data.ragged import Counts, Ids
from litseq.errors import DataError
from litseq.text import PromptFormat, Tokenizer

SENTINEL = "<extra_id_{}>"
"""What T5 calls its sentinels, so that its tokenizers will do too."""


def sentinel_ids(tokenizer: Tokenizer, where: str) -> Ids:
    """The ids of `<extra_id_0>`, `<extra_id_1>`, ... as far as the tokenizer has them."""
    found: list[int] = []
    while (index := tokenizer.token_to_id(SENTINEL.format(len(found)))) is not None:
        found.append(index)
    if not found:
        raise DataError(
            f"{where}: the tokenizer has no sentinels (<extra_id_0>, <extra_id_1>, ...), which objective="
            "'span-corruption' puts in the place of what it takes out; let this data train the tokenizer, or use 'prefix'"
        )
    return np.array(found, dtype=np.int32)


def noise_counts(lengths: Counts, density: float, mean_span: float) -> tuple[Counts, Counts]:
    """How many tokens are taken out of sequences of these lengths, in how many spans: both follow from the length.

    Something is taken out and something left, so a sequence needs two tokens.
    """
    noise = np.clip(np.rint(lengths * density).astype(np.int64), 1, lengths - 1)
    spans = np.maximum(1, np.rint(noise / mean_span).astype(np.int64))
    return noise, np.minimum(spans, np.minimum(noise, lengths - noise))


def longest_piece(
    limit: int, budget: int, sentinels: int, density: float, mean_span: float, around: int, joined: bool
) -> int:
    """The most tokens whose corrupted form fits.

    Args:
        limit: Positions of the model: for each of the two sides, or for both joined.
        budget: Tokens of a batch, for both sides together.
        sentinels: How many there are; a span needs one.
        density: Share of tokens that is taken out.
        mean_span: Tokens of a span, on average.
        around: Tokens around the input (its end, or begin and separator).
        joined: Both sides are one sequence.
    """
    lengths = np.arange(2, 2 * max(limit, 2) + 2)
    noise, spans = noise_counts(lengths, density, mean_span)
    source, target = lengths - noise + spans + around, noise + spans + 1
    positions = source + target - 1 if joined else np.maximum(source, target)
    fits = (positions <= limit) & (source + target <= budget) & (spans <= sentinels)
    return int(lengths[np.maximum(0, fits.cumprod().sum() - 1)])


def corrupt(ids: Ids, sentinels: Ids, noise: int, spans: int, generator: np.random.Generator) -> tuple[Ids, Ids]:
    """Take `noise` tokens out of a sequence in `spans` spans, all ways of placing them equally likely.

    The sequence begins with what is left and ends with a span, as in T5.

    Returns:
        The input, in which a sentinel stands for each span, and the target: each sentinel with its span behind it.
    """
    kept, taken = (_partition(count, spans, generator) for count in (len(ids) - noise, noise))
    ends = np.cumsum(np.stack([kept, taken], axis=1).ravel())  # of what is left and of what is taken, in turn
    pieces = np.split(ids, ends[:-1])
    marks = [sentinels[i : i + 1] for i in range(spans)]
    source = [part for pair in zip(pieces[0::2], marks, strict=True) for part in pair]
    target = [part for pair in zip(marks, pieces[1::2], strict=True) for part in pair]
    return np.concatenate(source), np.concatenate(target)


def _partition(items: int, parts: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Lengths of `parts` parts, none empty, that add to `items`."""
    cuts = np.sort(generator.choice(items - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [items]]))


class SpanDataset(SequenceDataset):
    """(source, target) by span corruption, other spans in every epoch.

    What is taken out of an example depends on the seed, the epoch and the example only. The epoch comes with the key,
    `index + epoch * len(dataset)`, since worker processes know nothing else of it.
    """

    varies = True

    def __init__(
        self,
        flat: Ids,
        starts: Counts,
        piece_lengths: Counts,
        sentinels: Ids,
        form: PromptFormat,
        eos_id: int,
        density: float,
        mean_span: float,
        seed: int,
        joined: bool,
    ) -> None:
        """Take the pieces of a flat array; each is at least two tokens long."""
        self.flat = flat
        self.starts = starts
        self.piece_lengths = piece_lengths
        self.sentinels = sentinels
        self.before, self.behind = (np.array(ids, dtype=np.int32) for ids in (form.prefix_ids, form.suffix_ids))
        self.end = np.array([eos_id], dtype=np.int32)
        self.seed = seed
        self.noise, self.spans = noise_counts(piece_lengths, density, mean_span)
        sources = piece_lengths - self.noise + self.spans + len(self.before) + len(self.behind)
        targets = self.noise + self.spans + 1
        self.lengths = np.stack((sources + targets - 1,) if joined else (sources, targets), axis=1)

    def __getitem__(self, index: int) -> Example:
        epoch, index = divmod(index, len(self))
        start = self.starts[index]
        source, target = corrupt(
            self.flat[start : start + self.piece_lengths[index]],
            self.sentinels,
            int(self.noise[index]),
            int(self.spans[index]),
            np.random.default_rng([self.seed, epoch, index]),
        )
        return np.concatenate([self.before, source, self.behind]), np.concatenate([target, self.end])
