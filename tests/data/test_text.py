import itertools
import random

import pytest

from litseq.data import TextDataModule
from litseq.errors import DataError, UsageError
from litseq.text import PromptFormat

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(scope="module")
def documents():
    """Documents of 3 to 90 characters."""
    generator = random.Random(0)
    return ["".join(generator.choices(LETTERS, k=generator.randint(3, 90))) for _ in range(200)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, documents):
    file = tmp_path_factory.mktemp("text") / "train.txt"
    file.write_text("\n".join(documents) + "\n")
    return str(file)


def module(path, **options):
    return TextDataModule(**{"train": path, "tokenizer_kind": "char", "block_size": 32, "max_tokens": 160} | options)


def model(architecture, **hparams):
    lightning_module = type("Module", (), {"architecture": architecture, "hparams": type("H", (), hparams)()})()
    return type("Trainer", (), {"lightning_module": lightning_module, "world_size": 1, "global_rank": 0})()


@pytest.mark.parametrize("longest", [30, 90, 18])
def test_blocks_hold_every_token_once_and_no_document_sees_another(tmp_path, documents, longest):
    # Up to 90 characters are cut; 17 or 18 of 31 fit only once into a block, so that filling it cuts them.
    documents = [
        (document + LETTERS)[: 17 + i % 2] if longest == 18 else document[:longest]
        for i, document in enumerate(documents)
    ]
    (tmp_path / "a.txt").write_text("\n".join(documents))
    data = module(str(tmp_path / "a.txt"))
    data.setup("fit")
    tokenizer, transitions, used, positions = data.tokenizer, [], 0, 0
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "labels", "attention_mask", "segment_ids"}
        assert batch["input_ids"].shape[1] == 32
        assert batch["input_ids"].numel() <= 160
        used += int(batch["attention_mask"].sum())
        positions += batch["input_ids"].numel()
        for ids, labels, mask, segments in zip(*batch.values(), strict=True):
            assert (mask == (segments > 0)).all()
            assert (labels[~mask] == -100).all()
            for segment in range(1, int(segments.max()) + 1):
                inside = segments == segment
                piece, learned = ids[inside].tolist(), labels[inside].tolist()
                # Inside a piece a label is the next token; its last label is the token that follows in the document.
                assert learned[:-1] == piece[1:]
                assert tokenizer.bos_id not in piece[1:]
                assert tokenizer.eos_id not in learned[:-1]
                transitions += zip(piece, learned, strict=True)
    expected = []
    for document in documents:
        whole = [tokenizer.bos_id, *tokenizer.encode(document), tokenizer.eos_id]
        expected += itertools.pairwise(whole)
    assert sorted(transitions) == sorted(expected)
    assert used / positions > 0.98
    facts = data.fingerprint["splits"]["train"]
    assert facts["tokens"] == used
    assert facts["examples"] * 32 == positions
    assert data.prompt_format == PromptFormat(prefix_ids=(1,))


def test_long_documents_are_cut_into_full_blocks(tmp_path):
    text = "".join(random.Random(1).choices(LETTERS, k=1000))
    (tmp_path / "a.txt").write_text(text)
    data = module(str(tmp_path / "a.txt"), documents="file")
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    assert len(dataset) == 32  # 1001 positions of 32
    pieces = [dataset[i] for i in range(32)]
    assert sum(len(inputs) == 32 for inputs, _, _ in pieces) == 31
    inputs = [token for piece in pieces for token in piece[0].tolist()]
    labels = [token for piece in pieces for token in piece[1].tolist()]
    whole = [1, *data.tokenizer.encode(text), 2]
    assert (inputs, labels) == (whole[:-1], whole[1:])


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder-only"])
def test_prefixes_are_continued_to_the_end_of_the_document(path, documents, architecture):
    data = module(path, objective="prefix", architecture=architecture)
    data.setup("fit")
    tokenizer, joined = data.tokenizer, []
    for batch in data.train_dataloader():
        for row in range(len(batch["labels"])):
            ids = batch["input_ids"][row][batch["attention_mask"][row]].tolist()
            target = batch["labels"][row][batch["labels"][row] != -100].tolist()
            if architecture == "encoder-decoder":
                assert ids[-1] == tokenizer.eos_id
                prefix = ids[:-1]
                assert batch["decoder_input_ids"][row][: len(target)].tolist() == [tokenizer.bos_id, *target[:-1]]
            else:
                prefix = ids[1 : batch["prefix_lengths"][row]]
                assert ids == [tokenizer.bos_id, *prefix, *target[:-1]]
            assert prefix
            assert target
            assert len(prefix) + len(target) <= 32
            joined.append(tuple(prefix + target))
    expected = []
    for document in documents:
        whole = [*tokenizer.encode(document), tokenizer.eos_id]
        # Pieces of 31 tokens, each with the token behind it.
        expected += [tuple(whole[start : start + 32]) for start in range(0, len(whole) - 1, 31)]
    assert sorted(joined) == sorted(expected)


def test_cuts_are_random_by_seed(path):
    def lengths(seed):
        data = module(path, objective="prefix", seed=seed)
        data.setup("fit")
        sources = data.train_dataloader().dataset.sources
        return sources.lengths.tolist()

    assert lengths(0) == lengths(0) != lengths(1)


def test_objective_and_block_follow_the_model(path):
    data = TextDataModule(train=path, max_tokens=300)
    assert (data.objective, data.block_size) == ("blocks", 300)
    data.trainer = model("decoder-only", max_seq_len=128)
    assert (data.objective, data.block_size) == ("blocks", 128)
    data.trainer = model("decoder-only", max_seq_len=128, prefix_lm=True)
    assert data.objective == "prefix"
    data.trainer = model("encoder-decoder", max_seq_len=64)
    assert (data.objective, data.block_size) == ("prefix", 64)


@pytest.mark.parametrize(
    ("options", "trainer", "message"),
    [
        ({"block_size": 64}, model("decoder-only", max_seq_len=32), "exceeds the model's max_seq_len=32"),
        ({"block_size": 64, "max_tokens": 32}, None, "block_size=64 exceeds max_tokens=32"),
        ({"objective": "blocks"}, model("encoder-decoder"), "does not go with a model that is encoder-decoder"),
        ({"objective": "blocks"}, model("decoder-only", prefix_lm=True), "does not go with a model that is prefix_lm"),
    ],
)
def test_what_the_model_cannot_take_is_refused(path, options, trainer, message):
    data = module(path, **options)
    data.trainer = trainer
    with pytest.raises(UsageError, match=message):
        data.setup("fit")


def test_prompts_are_lines(path, tmp_path):
    (tmp_path / "prompts.txt").write_text("abc\n\ndef\n")
    data = module(path, predict=str(tmp_path / "prompts.txt"))
    with pytest.raises(DataError, match="line 2: empty source"):
        data.setup("predict")
    data = module(path, predict=str(tmp_path / "prompts.txt"), on_bad_line="skip")
    with pytest.warns(UserWarning, match="left out 1 bad line"):
        data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["input_ids"].tolist() == [[1, *data.tokenizer.encode(text)] for text in ("abc", "def")]
    assert batch["prefix_lengths"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "page"}, "expected 'line', 'blank' or 'file'"),
        ({"objective": "spans"}, "expected 'auto', 'blocks', 'prefix' or 'span-corruption'"),
        ({"block_size": 1}, "expected at least 2"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TextDataModule(**options)
