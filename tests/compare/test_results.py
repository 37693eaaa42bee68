"""Which metric decides where none is named."""

import pytest

from compare.small import small, write_pairs
from litseq.compare.results import _main_metric


@pytest.mark.parametrize(
    ("references", "groups", "given", "expected"),
    [
        (["one two", "a b c d"], None, None, "bleu"),
        (["one two", "a b c"], None, None, "chrf"),  # BLEU is 0 whatever is generated
        (["one two", "a b c"], None, "exact_match", "exact_match"),
        (["one two", "a b c d"], ["turn 1", "turn 2"], None, "bits_per_byte"),
    ],
)
def test_the_metric_that_decides(tmp_path, references, groups, given, expected):
    write_pairs(tmp_path)
    answers = {"generated": True, "groups": groups, "references": references}
    assert _main_metric(small(tmp_path, metric=given), {"arm": {1: {"test": answers}}}) == expected
