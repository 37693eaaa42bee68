import itertools

import numpy as np
import pytest

from litseq.data.packing import cut, lay, pack


def test_cut_takes_full_pieces_from_the_front():
    starts, lengths = cut(np.array([0, 3, 10, 14]), 3)
    assert list(zip(starts.tolist(), lengths.tolist(), strict=True)) == [
        (0, 3),
        (3, 3),
        (6, 3),
        (9, 1),
        (10, 3),
        (13, 1),
    ]


def blocks_of(lengths, size):
    order, bounds = pack(np.array(lengths), size)
    return [order[a:b].tolist() for a, b in itertools.pairwise(bounds)]


def test_pack_fills_best_fitting_blocks():
    # By hand: 7 opens a block, 6 another, 5 a third; 4 goes to the 6 (room 4), 3 to the 7 (room 3), 2 to the 5.
    blocks = blocks_of([2, 3, 4, 5, 6, 7], 10)
    assert sorted(map(sorted, blocks)) == [[0, 3], [1, 5], [2, 4]]


@pytest.mark.parametrize("seed", range(5))
def test_every_piece_is_in_one_block_that_holds_it(seed):
    generator = np.random.default_rng(seed)
    size = int(generator.integers(5, 200))
    lengths = generator.integers(1, size + 1, 500)
    blocks = blocks_of(lengths, size)
    assert sorted(piece for block in blocks for piece in block) == list(range(500))
    assert all(0 < sum(lengths[block]) <= size for block in blocks)
    # Best fit decreasing needs at most 11/9 of the optimum and a block (Johnson 1973); the sum is a bound of that.
    assert len(blocks) <= 11 / 9 * max(np.ceil(lengths.sum() / size), (lengths > size / 2).sum()) + 1


def test_text_like_lengths_fill_99_percent():
    lengths = np.minimum(512, np.random.default_rng(0).geometric(1 / 60, 5000))
    blocks = blocks_of(lengths, 512)
    assert lengths.sum() / (len(blocks) * 512) > 0.99


def test_packing_nothing_gives_nothing():
    assert blocks_of(np.zeros(0, dtype=np.int64), 8) == []


def test_lay_cuts_at_the_ends_of_sequences_and_of_blocks():
    starts, lengths, bounds = lay(np.array([0, 3, 10, 14]), 5)
    pieces = list(zip(starts.tolist(), lengths.tolist(), strict=True))
    assert pieces == [(0, 3), (3, 2), (5, 5), (10, 4)]
    assert bounds.tolist() == [0, 2, 3, 4]
    starts, lengths, bounds = lay(np.array([0, 4, 10]), 5)
    assert (starts.tolist(), lengths.tolist(), bounds.tolist()) == ([0, 4, 5], [4, 1, 5], [0, 2, 3])


@pytest.mark.parametrize(("size", "low", "high"), [(100, 10, 45), (512, 160, 500), (1024, 150, 520)])
def test_few_pieces_a_block_fill_it_too(size, low, high):
    generator = np.random.default_rng(size)
    lengths = np.clip(generator.normal((low + high) / 2, (high - low) / 5, 4000).astype(int), low, high)
    blocks = blocks_of(lengths.tolist(), size)
    assert sorted(piece for block in blocks for piece in block) == list(range(4000))
    assert max(sum(lengths[block]) for block in blocks) <= size
    # Of pieces over half a block each needs its own.
    least = max(-(-lengths.sum() // size), (lengths > size / 2).sum())
    assert len(blocks) <= 1.01 * least
