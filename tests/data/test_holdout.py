import pytest

from litseq.data.holdout import hold_out
from litseq.errors import DataError

SOURCES, TARGETS = [f"s{i}" for i in range(20)], [f"t{i}" for i in range(20)]


def test_columns_are_cut_alike_and_keep_their_order():
    parts = hold_out((SOURCES, TARGETS), 0.25, seed=1)
    assert [len(parts[name][0]) for name in ("train", "val")] == [15, 5]
    assert sorted(parts["train"][0] + parts["val"][0]) == sorted(SOURCES)
    for sources, targets in parts.values():
        assert [int(text[1:]) for text in sources] == sorted(int(text[1:]) for text in sources)
        assert [text[1:] for text in sources] == [text[1:] for text in targets]


def test_the_seed_decides():
    assert hold_out((SOURCES,), 0.25, seed=1) == hold_out((SOURCES,), 0.25, seed=1)
    assert hold_out((SOURCES,), 0.25, seed=1) != hold_out((SOURCES,), 0.25, seed=2)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_an_empty_part_is_refused(fraction):
    with pytest.raises(DataError, match=r"val_fraction=.* of 20 examples leaves a split empty"):
        hold_out((SOURCES,), fraction, seed=1)
