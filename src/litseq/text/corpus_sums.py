"""A sacreBLEU score taken apart: the sums of each text, which can be added, resampled or gathered, and the score of sums.

They are what sacreBLEU's own significance tests are made of. The scorer is the caller's: this room imports no sacrebleu.
"""

from collections.abc import Sequence
from typing import Any


def text_sums(scorer: Any, texts: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """[texts, K] sums of a `sacrebleu` metric, of each text against its one reference."""
    found: list[list[int]] = scorer._extract_corpus_statistics(list(texts), [list(references)])
    return found


def score_of_sums(scorer: Any, sums: Sequence[float]) -> float:
    """The corpus score, as a percentage, of texts whose sums [K] were added."""
    return float(scorer._compute_score_from_stats(sums).score)
