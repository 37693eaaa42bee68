import numpy as np

from litseq.data.ragged import Ragged

LISTS = [[5, 6, 7], [], [8], [9, 10]]


def lists(ragged):
    return [ragged[i].tolist() for i in range(len(ragged))]


def test_lists_come_back():
    ragged = Ragged.from_lists(iter(LISTS))
    assert lists(ragged) == LISTS
    assert ragged.lengths.tolist() == [3, 0, 1, 2]
    assert ragged.flat.dtype == np.int32
    assert lists(Ragged.from_lists([])) == []


def test_take_in_any_order_and_more_than_once():
    ragged = Ragged.from_lists(LISTS)
    assert lists(ragged.take(np.array([3, 0, 0, 1]))) == [[9, 10], [5, 6, 7], [5, 6, 7], []]
    assert lists(ragged.take(np.array([], dtype=np.int64))) == []


def test_slices_go_over_boundaries():
    ragged = Ragged.from_lists(LISTS)
    assert lists(ragged.slices(np.array([1, 2]), np.array([3, 1]))) == [[6, 7, 8], [7]]


def test_enclose_puts_ids_around_each():
    ragged = Ragged.from_lists(LISTS)
    assert lists(ragged.enclose([1, 2], [3])) == [[1, 2, *ids, 3] for ids in LISTS]
    assert lists(ragged.enclose([], [3, 4])) == [[*ids, 3, 4] for ids in LISTS]
    assert lists(ragged.enclose([], [])) == LISTS
