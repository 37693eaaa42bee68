import random
import re
from collections import Counter

import numpy as np
import pytest

from data.test_text import LETTERS, model
from litseq.data import TextDataModule
from litseq.data.spans import corrupt, longest_piece, noise_counts
from litseq.errors import DataError

SENTINEL = re.compile(r"(<extra_id_\d+>)")


@pytest.fixture(scope="module")
def documents():
    generator = random.Random(0)
    return ["".join(generator.choices(LETTERS, k=generator.choice((1, 2, 3, 20, 50, 200)))) for _ in range(150)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, documents):
    file = tmp_path_factory.mktemp("spans") / "train.txt"
    file.write_text("\n".join(documents) + "\n")
    return str(file)


def module(path, architecture="encoder-decoder", **options):
    defaults = {"objective": "span-corruption", "tokenizer_kind": "char", "block_size": 64, "max_tokens": 256}
    data = TextDataModule(**{"train": path} | defaults | options)
    data.trainer = model(architecture, max_seq_len=64)
    return data


def spelled(data, ids):
    """Sentinels are written out, which `decode` does not do."""
    return "".join(data.tokenizer.id_to_token(index) for index in ids if index != data.tokenizer.pad_id)


def sides(data, batch):
    """(input, target) of each row, spelled, without what stands around them."""
    for row in range(len(batch["input_ids"])):
        if data.architecture == "encoder-decoder":
            source, target = batch["input_ids"][row], batch["labels"][row]
            assert batch["decoder_input_ids"][row, 0] == data.tokenizer.bos_id
            texts = spelled(data, source.tolist()), spelled(data, target[target != -100].tolist())
            assert texts[0].endswith("<eos>")
        else:
            labels = batch["labels"][row]
            length = int(batch["prefix_lengths"][row])
            texts = (
                spelled(data, batch["input_ids"][row, :length].tolist()),
                spelled(data, labels[labels != -100].tolist()),
            )
            assert texts[0].startswith("<bos>")
            assert texts[0].endswith("<sep>")
        assert texts[1].endswith("<eos>")
        yield tuple(re.sub("<(bos|eos|sep)>", "", text) for text in texts)


def restored(source, target):
    """The text again, by nothing but the two strings: every sentinel gives way to what stands behind it in the target."""
    parts = SENTINEL.split(target)
    assert parts[0] == ""
    assert parts[1::2] == SENTINEL.findall(source) == [f"<extra_id_{i}>" for i in range(len(parts) // 2)]
    for sentinel, span in zip(parts[1::2], parts[2::2], strict=True):
        assert span
        source = source.replace(sentinel, span)
    return source


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder-only"])
def test_input_and_target_rebuild_the_text(path, documents, architecture):
    data = module(path, architecture)
    data.setup("fit")
    texts, noise, kept, spans = Counter(), 0, 0, 0
    for batch in data.train_dataloader():
        assert max(tensor.shape[1] for name, tensor in batch.items() if tensor.ndim > 1) <= 64
        for source, target in sides(data, batch):
            texts[restored(source, target)] += 1
            if len(restored(source, target)) < 20:
                continue  # of three tokens one is taken, which is no 15 %
            taken = len(SENTINEL.sub("", target))
            noise, kept = noise + taken, kept + len(SENTINEL.sub("", source))
            spans += len(SENTINEL.findall(source))
    # Long documents were cut, so the pieces are found inside them; a document of one token has nothing to leave.
    assert sum(map(len, texts.elements())) >= sum(map(len, documents)) - 150
    whole = Counter(document for document in documents if 1 < len(document) <= 50)
    assert not whole - texts
    assert 0.13 < noise / (noise + kept) < 0.17
    assert 2.5 < noise / spans < 3.5


def test_every_epoch_takes_other_spans_and_the_same_seed_the_same(path):
    def rows(epoch, workers=0, **options):
        data = module(path, num_workers=workers, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        return sorted(pair for batch in loader for pair in sides(data, batch))

    first, again, second = rows(0), rows(0, workers=1), rows(1)
    assert first == again
    assert first != second
    assert sorted(map(restored, *zip(*first, strict=True))) == sorted(map(restored, *zip(*second, strict=True)))
    assert rows(0, seed=1) != first


def test_validation_takes_the_same_spans_in_every_epoch(path):
    data = module(path, val=path)
    data.setup("fit")
    loader, seen = data.val_dataloader(), []
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)
        seen.append([pair for batch in loader for pair in sides(data, batch)])
    assert seen[0] == seen[1]


def test_all_ways_to_take_spans_are_equally_likely():
    # 8 tokens, 4 of them in 2 spans: 3 ways to part what is taken times 3 to part what is left.
    ids, marks = np.arange(8, dtype=np.int32), np.array([100, 101], dtype=np.int32)
    found = Counter(
        tuple(corrupt(ids, marks, 4, 2, np.random.default_rng(i))[0].tolist()) for i in range(1800)
    )  # fmt: skip
    assert len(found) == 9
    assert min(found.values()) > 140
    assert max(found.values()) < 260


def test_counts_of_the_paper():
    # T5, section 3.1.4 and its code: 512 input tokens come from 568, with targets of 114.
    noise, spans = noise_counts(np.array([568]), 0.15, 3.0)
    assert (568 - noise + spans + 1, noise + spans + 1) == (512, 114)
    assert longest_piece(512, 10_000, 100, 0.15, 3.0, around=1, joined=False) == 568
    assert longest_piece(512, 10_000, 10, 0.15, 3.0, around=1, joined=False) < 220  # a sentinel a span
    assert longest_piece(512, 300, 100, 0.15, 3.0, around=1, joined=False) < 300


def test_a_tokenizer_without_sentinels_is_refused(path, tmp_path):
    data = module(path, objective="prefix")
    data.tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(DataError, match=r"tokenizer.json: the tokenizer has no sentinels \(<extra_id_0>"):
        module(path, tokenizer=str(tmp_path / "tokenizer.json")).setup("fit")


@pytest.mark.parametrize("wrong", [{"noise_density": 1.0}, {"mean_span": 0.5}, {"sentinels": 0}])
def test_what_cannot_be_is_refused(path, wrong):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        module(path, **wrong)
