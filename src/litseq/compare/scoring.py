"""Metrics of generated and of given outputs, each as rows of sums and a function of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF

from litseq.compare.statistics import Floats, Score
from litseq.text.corpus_sums import score_of_sums, text_sums

LOWER_CASED = "-lc"


@dataclass(frozen=True)
class Metric:
    """A metric of a comparison."""

    name: str
    """What results.json calls it."""
    label: str
    unit: str
    score: Score
    higher_is_better: bool = True
    signature: str = ""


def text_metrics(tokenizers: Sequence[str]) -> list[tuple[Metric, Any]]:
    """BLEU for every tokenizer, chrF and exact match; each with sacreBLEU's metric, None where it has none.

    Args:
        tokenizers: sacreBLEU's names; with `-lc` behind one, both sides are lower-cased first.
    """
    found: list[tuple[Metric, Any]] = []
    for tokenizer in tokenizers:
        plain = tokenizer.removesuffix(LOWER_CASED)
        bleu = BLEU(tokenize=plain, lowercase=plain != tokenizer, force=True)
        name = "bleu" if tokenizer == tokenizers[0] else f"bleu_{tokenizer}"
        label = "BLEU" if tokenizer == tokenizers[0] else f"BLEU ({tokenizer})"
        found.append((_sacrebleu(name, label, bleu), bleu))
    chrf = CHRF()
    found.append((_sacrebleu("chrf", "chrF", chrf), chrf))
    found.append((EXACT_MATCH, None))
    return found


def _sacrebleu(name: str, label: str, metric: Any) -> Metric:
    # The signature knows the number of references once a corpus was scored.
    metric.corpus_score(["a"], [["a"]])
    return Metric(
        name,
        label,
        "",
        lambda sums: score_of_sums(metric, sums.tolist()),
        True,
        str(metric.get_signature()),
    )


EXACT_MATCH = Metric("exact_match", "exact match", "%", lambda sums: 100.0 * float(sums[0] / sums[1]))
BITS_PER_BYTE = Metric(
    "bits_per_byte", "bits per byte", "", lambda sums: float(sums[0] / max(sums[1], 1.0)), higher_is_better=False
)
PERPLEXITY = Metric(
    "perplexity", "perplexity", "", lambda sums: math.exp(min(float(sums[0] / max(sums[1], 1.0)), 700.0)), False
)


def text_rows(metric: Metric, scorer: Any, outputs: Sequence[str], references: Sequence[str]) -> Floats:
    """[sentences, K] of a metric of generated texts."""
    if metric is EXACT_MATCH:
        return np.array(
            [[output == reference, 1] for output, reference in zip(outputs, references, strict=True)], float
        )
    return np.array(text_sums(scorer, outputs, references), float)


def bleu_can_tell(tokenizers: Sequence[str], references: Sequence[str]) -> bool:
    """Whether BLEU is above 0 of the references themselves: without a run of four words it is 0 whatever is generated."""
    metric, scorer = text_metrics(tokenizers)[0]
    return metric.score(text_rows(metric, scorer, references, references).sum(axis=0)) > 0


def likelihood_rows(nats: Sequence[float], tokens: Sequence[int], references: Sequence[str]) -> dict[str, Floats]:
    """Rows of bits per byte and of perplexity, from the negative log-likelihood of each reference."""
    size = [len(reference.encode()) for reference in references]
    return {
        "bits_per_byte": np.array([[nll / math.log(2), count] for nll, count in zip(nats, size, strict=True)]),
        "perplexity": np.array([[nll, count] for nll, count in zip(nats, tokens, strict=True)], float),
    }


def length_buckets(texts: Sequence[str], count: int = 4) -> list[tuple[str, list[int]]]:
    """Test items in parts of about equal number by the words of the input, shortest first: (words, indices)."""
    words = np.array([len(text.split()) for text in texts])
    bounds = np.unique(np.quantile(words, np.linspace(0, 1, count + 1)).round().astype(int))
    buckets = []
    for i in range(max(len(bounds) - 1, 1)):
        low = int(bounds[i]) + (i > 0)
        high = int(bounds[min(i + 1, len(bounds) - 1)])
        inside = np.flatnonzero((words >= low) & (words <= high)).tolist()
        if inside:
            buckets.append((f"{low}-{high}" if low < high else f"{low}", inside))
    return buckets


def named_buckets(groups: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Items that have names by these, in the order of the names: (name, indices)."""
    return [(name, [i for i, found in enumerate(groups) if found == name]) for name in sorted(set(groups))]
