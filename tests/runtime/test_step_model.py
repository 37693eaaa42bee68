"""The caches against a network that has none: every row, after anything that can happen to rows."""

import numpy as np
import pytest

from litseq.bundle import open_bundle
from litseq.generation import Prompt, StepModel
from litseq.runtime import step_model
from litseq.runtime.graphs import Graphs
from litseq.runtime.step_model import OrtStepModel
from runtime.tiny_bundles import tiny_tokenizer, write_tiny_bundle
from runtime.tiny_graphs import TinyNet

pytest.importorskip("onnx")

NETS = {
    "decoder-only": {},
    "encoder-decoder": {"encoder_decoder": True},
    "prefix-lm": {"prefix_lm": True},
    "no-top-k": {"top_k": False},
    "with a state": {"state": True},
}


@pytest.fixture(scope="module", params=NETS)
def loaded(request, tmp_path_factory):
    tokenizer = tiny_tokenizer()
    net = TinyNet(vocab_size=tokenizer.vocab_size, **NETS[request.param])
    bundle = open_bundle(write_tiny_bundle(tmp_path_factory.mktemp("b") / "bundle", net, tokenizer))
    return net, Graphs(bundle, threads=1)


class Followed:
    """A step model beside plain lists of what its rows hold; every score is compared with the uncached network."""

    def __init__(self, net, graphs, seed=0):
        self.net, self.model = net, OrtStepModel(graphs)
        self.rng = np.random.default_rng(seed)
        self.rows = []

    def admit(self, lengths, top_k=0, source_length=None):
        new = []
        for length in lengths:
            ids = self.rng.integers(3, self.net.vocab_size, length).tolist()
            size = source_length or int(self.rng.integers(1, 30))
            source = self.rng.integers(3, self.net.vocab_size, size).tolist()
            new.append((ids, source if self.net.encoder_decoder else None, length))
        first = len(self.rows)
        self.rows += new
        self.model.admit([Prompt(ids, source) for ids, source, _ in new])
        self.check(self.model.read(first, [ids for ids, _, _ in new], top_k), new, top_k)

    def advance(self, steps=1, top_k=0):
        for _ in range(steps):
            tokens = self.rng.integers(3, self.net.vocab_size, len(self.rows))
            self.rows = [([*ids, int(t)], source, p) for (ids, source, p), t in zip(self.rows, tokens, strict=True)]
            self.check(self.model.advance(tokens, top_k), self.rows, top_k)

    def read(self, first, lengths):
        """Further tokens for some rows, every one of them scored."""
        ids = [self.rng.integers(3, self.net.vocab_size, n).tolist() for n in lengths]
        scores = self.model.read(first, ids, every=True)
        wanted = []
        for i, new in enumerate(ids, first):
            before, source, prefix = self.rows[i]
            self.rows[i] = ([*before, *new], source, prefix)
            wanted.append(self.net.logits([*before, *new], source, prefix)[len(before) :])
        np.testing.assert_allclose(scores.logits, np.concatenate(wanted), atol=2e-5)

    def rewind(self, lengths):
        rows = zip(self.rows, lengths, strict=False)
        self.rows[: len(lengths)] = [(ids[:length], source, prefix) for (ids, source, prefix), length in rows]
        self.model.rewind(np.array(lengths))

    def keep(self, order):
        self.rows = [self.rows[i] for i in order]
        self.model.keep(np.array(order, np.int64))
        assert self.model.rows == len(order)

    def check(self, scores, rows, top_k):
        assert scores.logits.shape == (len(rows), self.net.vocab_size)
        wanted = np.stack([self.net.logits(ids, source, prefix)[-1] for ids, source, prefix in rows])
        np.testing.assert_allclose(scores.logits, wanted, atol=2e-5)
        if not top_k or not self.net.top_k:
            assert scores.top_ids is None
            return
        assert scores.top_ids.shape == (len(rows), top_k)
        best = np.take_along_axis(wanted, scores.top_ids, -1)
        np.testing.assert_allclose(best, -np.sort(-wanted, -1)[:, :top_k], atol=2e-5)
        normalizer = np.log(np.exp(wanted).sum(-1, keepdims=True))
        np.testing.assert_allclose(scores.top_log_probs, best - normalizer, atol=2e-5)


def test_it_is_a_step_model(loaded):
    model: StepModel = OrtStepModel(loaded[1])
    assert (model.vocab_size, model.max_length, model.rows) == (loaded[0].vocab_size, 64, 0)


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_ragged_rows(loaded, top_k):
    rows = Followed(*loaded)
    rows.admit([1, 4, 4, 5, 17, 30], top_k)
    rows.advance(6, top_k)


def test_what_is_asked_for_may_change_from_step_to_step(loaded):
    rows = Followed(*loaded)
    rows.admit([3, 3])
    for top_k in (0, 2, 0, 3, 2):
        rows.advance(1, top_k)


def test_steps_of_many_kinds_are_not_all_kept_bound(loaded, monkeypatch):
    monkeypatch.setattr(step_model, "_KEPT_STEPS", 3)
    followed = Followed(*loaded)
    followed.admit([3, 5])
    for top_k in (1, 2, 3, 4, 5, 0, 1, 4):
        followed.advance(top_k=top_k)
    assert len(followed.model._steps) == 3


def test_rows_come_and_go_and_move(loaded):
    rows = Followed(*loaded)
    rows.admit([5, 9])
    rows.advance(2)
    rows.admit([12, 2, 20])
    rows.advance(2)
    rows.keep([0, 4, 2])
    rows.advance(2)
    rows.keep([2, 2, 0, 1, 1])  # as beams do
    rows.advance(2)
    rows.admit([1])
    rows.keep([5, 0, 1])
    rows.advance(3)
    rows.keep([])
    rows.admit([7, 7])
    rows.advance(1)


def test_beams_may_need_more_rows_than_there_were(loaded):
    rows = Followed(*loaded)
    rows.admit([5, 8])
    rows.keep([0] * 4 + [1] * 4)
    rows.advance(3)


def test_a_place_that_once_held_a_copy_of_a_row_may_hold_one_again(loaded):
    rows = Followed(*loaded)
    rows.admit([5], source_length=6)
    rows.keep([0, 0, 0, 0, 0])
    rows.advance(1)
    rows.keep([0])
    rows.admit([5], source_length=40)  # memory moves, and what stood behind the rows in use is not taken along
    rows.keep([0, 1, 0, 0, 1])
    rows.advance(2)


def test_caches_grow_to_the_models_limit(loaded):
    rows = Followed(*loaded)
    rows.admit([2, 3])
    rows.advance(61)


@pytest.mark.parametrize("kind", ["decoder-only", "encoder-decoder"])
def test_few_long_rows_behind_many_short_ones_take_no_memory_of_many_long_ones(kind, tmp_path):
    tokenizer = tiny_tokenizer()
    net = TinyNet(vocab_size=tokenizer.vocab_size, num_layers=1, max_seq_len=1024, **NETS[kind])
    rows = Followed(net, Graphs(open_bundle(write_tiny_bundle(tmp_path / "bundle", net, tokenizer)), threads=1))
    rows.admit([3] * 32)
    rows.advance()
    rows.keep([7])
    long = rows.rng.integers(3, net.vocab_size, 900).tolist()
    ids, source = ([5], long) if net.encoder_decoder else (long, None)
    rows.model.admit([Prompt(ids, source)])
    rows.rows.append((ids, source, 0))
    rows.check(rows.model.read(1, [ids]), rows.rows[1:], 0)
    rows.advance()
    heads = net.num_heads if net.encoder_decoder else net.num_kv_heads
    most = 4 * 2 * 900 * 2 * heads * net.head_dim * 4
    assert rows.model.nbytes < most
    rows.keep([0])
    rows.admit([2] * 31)
    rows.advance()
    assert rows.model.nbytes < most


def test_memory_used_before_does_not_show(loaded):
    rows = Followed(*loaded)
    rows.admit([30, 31, 5])
    rows.advance(3)
    rows.model.reset()
    rows.rows = []
    rows.admit([3, 2])
    rows.advance(5)


@pytest.mark.parametrize("length", [8, 9, 40])
def test_prompts_can_be_read_in_chunks_behind_rows_that_run(loaded, length):
    net, graphs = loaded
    rows = Followed(net, graphs)
    rows.admit([3, 5])
    if not rows.model.reads_in_chunks:
        assert net.prefix_lm
        return
    ids = rows.rng.integers(3, net.vocab_size, length).tolist()
    source = [4, 5, 6, 7, 8] if net.encoder_decoder else None
    rows.model.admit([Prompt(ids, source)])
    for start in range(0, length, 8):
        rows.advance(1)  # the first two rows
        scores = rows.model.read(2, [ids[start : start + 8]])
    rows.rows.append((ids, source, length))
    rows.check(scores, rows.rows[2:], 0)
    rows.advance(2)


def test_several_tokens_can_be_read_and_taken_back(loaded):
    net, graphs = loaded
    rows = Followed(net, graphs)
    rows.admit([4, 9, 6])
    rows.read(0, [3, 1, 5])
    rows.advance(1)
    if not rows.model.can_rewind:
        assert net.state
        return
    rows.rewind([5, 10, 7])
    rows.read(1, [2, 4])
    rows.rewind([4])
    rows.advance(3)


def test_a_ragged_call_fits_behind_the_longest_row(loaded):
    """A short row's padding is written behind its own tokens, where the cache may end."""
    rows = Followed(*loaded)
    rows.admit([46, 10, 33])
    assert rows.model._rows._cache.length >= 46
    for _ in range(3):
        rows.read(0, [1, 15, 3])
    rows.advance(2)


def test_rows_begin_with_what_others_hold_or_held(loaded):
    net, graphs = loaded
    rows = Followed(net, graphs)
    if not rows.model.can_rewind or not rows.model.reads_in_chunks or net.encoder_decoder:
        return
    rows.admit([20, 7])
    saved = rows.model.save(0, 15)
    assert saved.nbytes > 0
    beginnings = [rows.rows[0][0][:12], rows.rows[1][0][:5]]
    rows.model.admit([Prompt(ids) for ids in beginnings])
    rows.model.load(2, saved, 12)
    rows.model.copy(3, 1, 5)
    rows.rows += [(ids, None, 1) for ids in beginnings]
    rows.advance(3)
    rows.model.reset()
    rows.rows = [(beginnings[0], None, 1)]
    rows.model.admit([Prompt([3])])
    rows.model.load(0, saved, 12)
    rows.advance(2)


@pytest.mark.parametrize("seed", range(4))
def test_anything_in_any_order(loaded, seed):
    rows = Followed(*loaded, seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(14):
        if not rows.rows or rng.random() < 0.3:
            rows.admit(rng.integers(1, 20, rng.integers(1, 4)).tolist())
        elif rng.random() < 0.5:
            rows.keep(rng.integers(0, len(rows.rows), rng.integers(0, 7)).tolist())
        if rows.rows:
            rows.advance(1, int(rng.integers(0, 3)))


def test_a_row_is_the_same_to_the_last_bit_beside_others(loaded):
    """Alone, in a ragged group, after a longer row has left: whatever stands in the padding has no influence."""
    net, graphs = loaded
    if net.state:
        pytest.skip("the toy graph with a state sums over its padding, so its last bits depend on the neighbours")
    rng = np.random.default_rng(0)
    lengths = [2, 7, 8, 9, 15, 20]
    prompts = [
        Prompt(
            rng.integers(3, net.vocab_size, n).tolist(),
            rng.integers(3, net.vocab_size, n).tolist() if net.encoder_decoder else None,
        )
        for n in lengths
    ]
    together = OrtStepModel(graphs)
    together.admit(prompts)
    scores = [together.read(0, [prompt.ids for prompt in prompts]).logits.copy()]
    tokens = np.arange(3, 3 + len(prompts))
    scores += [together.advance(tokens).logits.copy() for _ in range(4)]
    together.keep(np.arange(3))
    scores.append(together.advance(tokens[:3]).logits.copy())
    for i, prompt in enumerate(prompts):
        alone = OrtStepModel(graphs)
        alone.admit([prompt])
        np.testing.assert_array_equal(alone.read(0, [prompt.ids]).logits[0], scores[0][i])
        for step in range(1, 6 if i < 3 else 5):
            np.testing.assert_array_equal(alone.advance(tokens[i : i + 1]).logits[0], scores[step][i])
