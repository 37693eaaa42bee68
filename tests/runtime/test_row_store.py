import numpy as np
import pytest

from litseq.errors import LitseqError
from litseq.runtime.row_store import RowStore, TensorSpec

F32 = np.dtype(np.float32)
SPECS = (
    TensorSpec("key", ("batch", 2, "capacity", 3), F32),
    TensorSpec("value", ("batch", "capacity", 4), np.dtype(np.float16)),
    TensorSpec("state", ("batch", 5), F32),
)


def filled(rows, length, used=None):
    store = RowStore(SPECS)
    store.lay_out(rows, length)
    rng = np.random.default_rng(0)
    for array in store.arrays.values():
        array[:] = rng.standard_normal(array.shape)
    return store


def used(store, rows, length):
    return {
        "key": store.arrays["key"][:rows, :, :length].copy(),
        "value": store.arrays["value"][:rows, :length].copy(),
        "state": store.arrays["state"][:rows].copy(),
    }


def test_layout_and_alignment():
    store = filled(3, 7)
    assert {name: array.shape for name, array in store.arrays.items()} == {
        "key": (3, 2, 7, 3),
        "value": (3, 7, 4),
        "state": (3, 5),
    }
    assert store.arrays["value"].dtype == np.float16
    for array in store.arrays.values():
        assert array.ctypes.data % 64 == 0
        assert array[1:].flags.c_contiguous


def test_fresh_memory_is_zero():
    store = RowStore(SPECS)
    store.lay_out(4, 8)
    assert not any(array.any() for array in store.arrays.values())


@pytest.mark.parametrize(("rows", "length"), [(3, 20), (9, 7), (8, 16), (3, 5)])
def test_growing_and_shrinking_keep_the_content(rows, length):
    store = filled(3, 7)
    before = used(store, 3, 5)
    store.grow(rows, length, 3, 5)
    assert (store.rows, store.length) == (rows, length)
    for name, array in used(store, 3, 5).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    "order",
    [
        [0, 1, 2, 3, 4],
        [0, 1, 2],
        [],
        [0, 4, 2],
        [4, 3, 2, 1, 0],
        [1, 0],
        [3, 3, 3, 3, 3],
        [0, 0, 1, 1, 2],
        [4, 0, 0, 2, 1],
        [1, 2, 3, 4],
    ],
)
def test_keep_is_a_selection(order):
    store = filled(5, 7)
    before = used(store, 5, 6)
    order = np.array(order, np.int64)
    store.keep(order, np.flatnonzero(order != np.arange(len(order))), np.full(5, 6, np.int32))
    for name, array in used(store, len(order), 6).items():
        np.testing.assert_array_equal(array, before[name][order])


def test_keep_moves_only_what_changes_and_only_the_used_part():
    store = filled(4, 7)
    before = {name: array.copy() for name, array in store.arrays.items()}
    store.keep(np.array([0, 3, 2]), np.array([1]), np.array([5, 5, 5, 2], np.int32))
    for row in (0, 2, 3):
        np.testing.assert_array_equal(store.arrays["key"][row], before["key"][row])
    np.testing.assert_array_equal(store.arrays["key"][1, :, :2], before["key"][3, :, :2])
    np.testing.assert_array_equal(store.arrays["key"][1, :, 2:], before["key"][1, :, 2:])


def test_states_are_cleared_and_growing_tensors_are_not():
    store = filled(4, 7)
    store.clear_states(1, 3)
    assert not store.arrays["state"][1:3].any()
    assert store.arrays["state"][[0, 3]].all()
    assert store.arrays["key"].all()


def test_memory_is_laid_out_anew_without_asking_for_more():
    store = filled(4, 8)
    address = store.arrays["key"].ctypes.data
    store.lay_out(2, 16)
    assert store.arrays["key"].shape == (2, 2, 16, 3)
    assert store.arrays["key"].ctypes.data == address
    store.lay_out(1, 3)
    assert store.arrays["key"].ctypes.data == address


def test_memory_that_does_not_exist():
    with pytest.raises(LitseqError, match=r"no memory for a cache of .* GiB; lower batch_size"):
        RowStore(SPECS).lay_out(2**30, 2**28)
