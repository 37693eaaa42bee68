import numpy as np
import pytest

from litseq.runtime.rows import groups, padded


def test_padded():
    assert padded([[1, 2], [3]], 3).tolist() == [[1, 2, 0], [3, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_cover_all_rows_in_order_and_stay_small_and_even(seed):
    rng = np.random.default_rng(seed)
    lengths = sorted(rng.integers(1, 300, 60).tolist())
    cut = list(groups(lengths, 2000))
    assert [i for start, stop in cut for i in range(start, stop)] == list(range(60))
    for start, stop in cut:
        part = lengths[start:stop]
        places = max(part) * len(part)
        assert places <= 2000
        assert places - sum(part) <= max(16, places // 9)


def test_equal_lengths_are_one_group_up_to_the_limit():
    assert list(groups([10] * 8, 4096)) == [(0, 8)]
    assert list(groups([10] * 8, 40)) == [(0, 4), (4, 8)]


def test_a_row_longer_than_the_limit_is_alone():
    assert list(groups([5, 5, 900, 900], 100)) == [(0, 2), (2, 3), (3, 4)]
    assert list(groups([], 100)) == []
