import numpy as np
import pytest
from torch.utils.data import DistributedSampler, SequentialSampler

from litseq.data.samplers import EpochSampler, TokenBatchSampler
from litseq.errors import DataError


def lengths_like_sentences(count, columns, seed=0):
    """Lengths with the spread of real sentence pairs: a log-normal, the two sides alike."""
    generator = np.random.default_rng(seed)
    source = np.exp(generator.normal(2.2, 0.45, count)).astype(int) + 3
    target = np.maximum(2, source + generator.normal(0, 1.8, count).astype(int))
    return np.stack([source, target], axis=1)[:, :columns]


def sampler(lengths, max_tokens=512, ranks=1, rank=0, **options):
    return TokenBatchSampler(EpochSampler(lengths, ranks, rank), lengths, max_tokens, **options)


def padded(lengths, batch):
    return len(batch) * lengths[batch].max(axis=0).sum()


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_example_comes_once_within_the_budget_on_equal_steps(shuffle, columns, ranks):
    lengths = lengths_like_sentences(1001, columns)
    samplers = [sampler(lengths, ranks=ranks, rank=rank, shuffle=shuffle) for rank in range(ranks)]
    for epoch in range(3):
        for each in samplers:
            each.sampler.set_epoch(epoch)
        per_rank = [list(each) for each in samplers]
        assert len({len(batches) for batches in per_rank}) == 1
        assert [len(batches) for batches in per_rank] == [len(each) for each in samplers]
        batches = [batch for batches in per_rank for batch in batches]
        assert sorted(index for batch in batches for index in batch) == list(range(1001))
        assert max(padded(lengths, batch) for batch in batches) <= 512
        assert all(type(index) is int for index in batches[0])


@pytest.mark.parametrize(("count", "ranks"), [(400, 2), (401, 3), (25, 8)])
def test_a_step_of_several_ranks_is_an_accumulated_step_of_one(count, ranks):
    lengths = lengths_like_sentences(count, 2)
    for epoch in range(4):
        alone, together = (sampler(lengths, max_tokens=160, ranks=r, shuffle=True).plan(epoch) for r in (1, ranks))
        steps = [
            [set(np.concatenate(plan[start : start + ranks]).tolist()) for start in range(0, len(plan), ranks)]
            for plan in (alone, together)
        ]
        assert steps[0] == steps[1]
        assert len(together) % ranks == 0


def test_more_than_the_last_step_is_cut_where_it_has_too_few_examples():
    lengths = np.array([[9], [9], [9], [9], [500]])  # the last batch has one example, for two ranks
    batches = sampler(lengths, ranks=2).plan(0)
    assert sorted(index for batch in batches for index in batch) == list(range(5))
    lengths = np.array([[200], [200], [200], [200], [500]])  # 2 + 2 + 1
    assert list(map(len, sampler(lengths, ranks=2).plan(0))) == [1, 2, 1, 1]


@pytest.mark.parametrize("columns", [1, 2])
def test_little_padding_and_full_batches(columns):
    lengths = lengths_like_sentences(20_000, columns)
    batches = list(sampler(lengths, max_tokens=1024, shuffle=True))
    total = sum(padded(lengths, batch) for batch in batches)
    assert 1 - lengths.sum() / total < 0.03
    assert total / len(batches) > 0.85 * 1024


def test_epochs_differ_in_order_and_company_but_not_in_number():
    lengths = lengths_like_sentences(2000, 2)
    each = sampler(lengths, shuffle=True, seed=3)
    first, again, second = each.plan(0), each.plan(0), each.plan(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first) == len(second) == len(each)
    assert {frozenset(b.tolist()) for b in first} != {frozenset(b.tolist()) for b in second}
    other = sampler(lengths, shuffle=True, seed=4).plan(0)
    assert [b.tolist() for b in other] != [b.tolist() for b in first]


def test_pairs_of_equal_lengths_change_company_though_batches_stay_apart():
    lengths = np.repeat([[4, 4], [40, 40]], 16, axis=0)  # no pool of both, and one batch of each does not fit
    each = sampler(lengths, max_tokens=64 * 8, shuffle=True)
    assert {tuple(sorted(set(lengths[batch][:, 0]))) for batch in each.plan(0)} == {(4,), (40,)}
    assert {frozenset(b.tolist()) for b in each.plan(0)} != {frozenset(b.tolist()) for b in each.plan(1)}


def test_blocks_of_one_length_are_mixed_over_the_whole_epoch():
    lengths = np.full((1000, 1), 16)
    batches = list(sampler(lengths, max_tokens=64, shuffle=True))
    assert {len(batch) for batch in batches} == {4}
    assert np.mean([max(batch) - min(batch) for batch in batches]) > 300


def test_unshuffled_is_the_same_in_every_epoch():
    each = sampler(lengths_like_sentences(300, 2))
    first = list(each)
    each.sampler.set_epoch(5)
    assert list(each) == first


def test_without_buckets_the_order_is_kept():
    lengths = lengths_like_sentences(300, 1)
    batches = list(sampler(lengths, bucket=False))
    assert [index for batch in batches for index in batch] == list(range(300))
    assert max(padded(lengths, batch) for batch in batches) <= 512


def test_start_leaves_out_batches_once():
    each = sampler(lengths_like_sentences(500, 2), shuffle=True)
    whole = list(each)
    each.start = 3
    assert list(each) == whole[3:]
    assert list(each) == whole


def test_the_injected_distributed_sampler_says_the_rank_and_the_epoch():
    # What Lightning does under use_distributed_sampler=True: the same arguments with another sampler.
    lengths = lengths_like_sentences(500, 2)
    for rank in range(2):
        injected = DistributedSampler(lengths, num_replicas=2, rank=rank, shuffle=True)
        injected.set_epoch(4)
        ours = sampler(lengths, ranks=2, rank=rank, shuffle=True)
        ours.sampler.set_epoch(4)
        assert list(TokenBatchSampler(injected, lengths, 512, shuffle=True)) == list(ours)
    plain = TokenBatchSampler(SequentialSampler(lengths), lengths, 512)
    assert (plain.num_replicas, plain.rank, plain.epoch) == (1, 0, 0)


def test_too_few_examples_for_the_ranks_are_refused():
    lengths = np.full((3, 1), 5)
    with pytest.raises(DataError, match="3 examples cannot feed 4 ranks"):
        sampler(lengths, ranks=4)
    assert [len(list(sampler(lengths, ranks=3, rank=rank))) for rank in range(3)] == [1, 1, 1]


def test_an_example_over_the_budget_and_drop_last_are_refused():
    with pytest.raises(ValueError, match="an example of 700 tokens exceeds max_tokens 512"):
        sampler(np.array([[300, 400]]))
    with pytest.raises(ValueError, match="drop_last=True is not supported"):
        sampler(np.array([[3, 4]]), drop_last=True)


def test_no_examples_give_no_batches():
    for columns in (1, 2):
        each = sampler(np.zeros((0, columns), dtype=np.int64), shuffle=True)
        assert (len(each), list(each)) == (0, [])


def test_epoch_sampler_is_a_sampler_of_its_rank():
    assert list(EpochSampler(range(5), 2, 1)) == [1, 3]
    assert len(EpochSampler(range(5), 2, 0)) == 3
