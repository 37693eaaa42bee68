import gzip
import json
import random

import pytest
import torch

from litseq.data import PairDataModule
from litseq.errors import DataError, UsageError
from litseq.text import PromptFormat, Tokenizer

WORDS = {"dog": "Hund", "cat": "Katze", "house": "Haus", "runs": "läuft", "big": "groß", "and": "und", "red": "rot"}


def sentences(count, seed=0):
    generator = random.Random(seed)
    rows = [generator.choices(list(WORDS), k=generator.randint(1, 12)) for _ in range(count)]
    return [(" ".join(row), " ".join(WORDS[word] for word in row)) for row in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for name, count, seed in (("train", 300, 0), ("val", 40, 1), ("test", 30, 2)):
        lines = "".join(f"{source}\t{target}\n" for source, target in sentences(count, seed))
        (folder / f"{name}.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "prompts.txt").write_text("big dog\nred house and cat runs and runs and runs\ncat\n")
    return folder


def module(files, **options):
    options = {"train": str(files / "train.tsv.gz"), "vocab_size": 120, "max_tokens": 256} | options
    return PairDataModule(**options)


def model(architecture, **hparams):
    """What a datamodule reads of a trainer's module."""
    hparams = type("Hparams", (), hparams)()
    lightning_module = type("Module", (), {"architecture": architecture, "hparams": hparams})()
    return type("Trainer", (), {"lightning_module": lightning_module, "world_size": 1, "global_rank": 0})()


def test_encoder_decoder_batches_hold_the_pairs(files):
    data = module(files)
    data.setup("fit")
    tokenizer, seen = data.tokenizer, []
    for batch in data.train_dataloader():
        assert set(batch) == {"input_ids", "attention_mask", "decoder_input_ids", "labels"}
        assert batch["input_ids"].numel() + batch["labels"].numel() <= 256
        for source, mask, decoder, labels in zip(*batch.values(), strict=True):
            target = labels[labels != -100].tolist()
            assert source[mask].tolist()[-1] == target[-1] == tokenizer.eos_id
            assert decoder[: len(target)].tolist() == [tokenizer.bos_id, *target[:-1]]
            seen.append((tokenizer.decode(source[mask].tolist()), tokenizer.decode(target)))
    assert sorted(seen) == sorted(sentences(300))
    assert data.prompt_format == PromptFormat(suffix_ids=(2,), start_ids=(1,))


@pytest.mark.parametrize("loss_on", ["target", "all"])
def test_decoder_only_batches_hold_the_pairs(files, loss_on):
    data = module(files, architecture="decoder-only", loss_on=loss_on)
    data.setup("fit")
    tokenizer, seen = data.tokenizer, []
    for batch in data.train_dataloader():
        assert batch["input_ids"].numel() <= 256
        for ids, labels, mask, prefix in zip(*batch.values(), strict=True):
            row = ids[mask].tolist()
            source = tokenizer.encode(tokenizer.decode(row[:prefix]))
            assert row[:prefix] == data.prompt_format.render(source) == [1, *source, 4]
            followed = [*row[1:], tokenizer.eos_id]
            learned = labels[mask].tolist()
            assert learned[prefix - 1 :] == followed[prefix - 1 :]
            assert learned[: prefix - 1] == (followed[: prefix - 1] if loss_on == "all" else [-100] * (prefix - 1))
            assert (labels[~mask] == -100).all()
            seen.append((tokenizer.decode(source), tokenizer.decode(row[prefix:])))
    assert sorted(seen) == sorted(sentences(300))


def test_every_source_of_pairs_gives_the_same_batches(files, tmp_path):
    rows = sentences(300)
    for name, column in (("a.en", 0), ("a.de", 1)):
        (tmp_path / name).write_text("".join(row[column] + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"en": s, "de": t}) + "\n" for s, t in rows))
    modules = [
        module(files),
        module(files, train=(tmp_path / "a.en", tmp_path / "a.de")),
        module(files, train=str(tmp_path / "a.jsonl"), source_field="en", target_field="de"),
    ]
    batches = []
    for data in modules:
        data.setup("fit")
        batches.append([{k: v.tolist() for k, v in batch.items()} for batch in data.train_dataloader()])
    assert batches[0] == batches[1] == batches[2]


def test_vocabulary_is_there_before_setup_and_the_same_in_another_process(files):
    data, other = module(files), module(files)
    assert data.vocab_size == data.tokenizer.vocab_size <= 120
    assert data.tokenizer.to_json() == other.tokenizer.to_json()


def test_a_tokenizer_can_be_given(files, tmp_path):
    given = Tokenizer.train(["dog cat Hund Katze"] * 3, vocab_size=300, kind="byte")
    given.save(tmp_path / "tokenizer.json")
    data = module(files, tokenizer=tmp_path / "tokenizer.json", val=str(files / "val.tsv.gz"))
    assert data.tokenizer.to_json() == given.to_json()
    assert data.hparams["tokenizer"] == str(tmp_path / "tokenizer.json")


def test_a_tokenizer_without_separator_needs_one_said(files, tmp_path):
    document = json.loads(Tokenizer.train(["dog"], 261, "byte").to_json().replace("<sep>", "<other>"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    options = {"tokenizer": str(tmp_path), "architecture": "decoder-only"}
    with pytest.raises(DataError, match=r"no separator token .*give separator="):
        module(files, **options).setup("fit")
    data = module(files, separator=" => ", **options)
    assert data.tokenizer.decode(data.prompt_format.suffix_ids) == " => "
    assert len(data.prompt_format.suffix_ids) == 4


def test_splits_and_stages(files):
    data = module(files, val=str(files / "val.tsv.gz"), test=str(files / "test.tsv.gz"))
    data.setup("fit")
    first = data.train_dataloader().dataset
    data.setup("fit")
    assert data.train_dataloader().dataset is first
    assert sum(len(batch["labels"]) for batch in data.val_dataloader()) == 40
    with pytest.raises(RuntimeError, match="call setup"):
        data.test_dataloader()
    data.setup("test")
    assert sum(len(batch["labels"]) for batch in data.test_dataloader()) == 30
    with pytest.raises(DataError, match="give predict= a file"):
        data.setup("predict")
    everything = module(files, test=str(files / "test.tsv.gz"))
    everything.setup()
    assert len(everything.test_dataloader()) > 0
    assert everything.val_dataloader() == []


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_a_stage_without_data_says_which_file_is_missing(stage):
    name = {"fit": "train", "validate": "val"}.get(stage, stage)
    with pytest.raises(DataError, match=f"give {name}= a file"):
        PairDataModule().setup(stage)


def test_there_is_no_tokenizer_without_training_text(files):
    data = PairDataModule(test=str(files / "test.tsv.gz"))
    with pytest.raises(DataError, match="give train= to train one or tokenizer= to load one"):
        data.setup("test")


def test_a_missing_validation_file_is_noticed_before_the_tokenizer_is_trained(files, monkeypatch):
    monkeypatch.setattr(Tokenizer, "train", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match=r"missing\.tsv: cannot be read"):
        _ = module(files, val="missing.tsv").vocab_size


def test_validation_can_be_cut_from_training_by_seed(files):
    def held_out(seed):
        data = module(files, val_fraction=0.1, seed=seed)
        data.setup("fit")
        decode = data.tokenizer.decode
        parts = []
        for loader in (data.train_dataloader(), data.val_dataloader()):
            parts.append(sorted(decode(row.tolist()) for batch in loader for row in batch["input_ids"]))
        return parts

    train, val = held_out(1)
    assert (len(train), len(val)) == (270, 30)
    assert sorted(train + val) == sorted(source for source, _ in sentences(300))
    assert held_out(1) == [train, val]
    assert held_out(2)[1] != val
    only = module(files, val_fraction=0.1, seed=1)
    only.setup("validate")
    assert len(only.val_dataloader().dataset) == 30
    with pytest.raises(DataError, match=r"val_fraction=0\.001 of 300 examples leaves a split empty"):
        module(files, val_fraction=0.001).setup("fit")


@pytest.mark.parametrize(
    ("options", "architecture", "limit", "reason"),
    [
        ({"max_source_length": 8}, "encoder-decoder", None, "with a source over max_source_length=8"),
        ({"max_target_length": 8}, "decoder-only", None, "with a target over max_target_length=8"),
        ({"max_tokens": 16}, "encoder-decoder", None, "over max_tokens=16"),
        ({}, "decoder-only", 15, "over the model's max_seq_len=15"),
        ({}, "encoder-decoder", 9, "over the model's max_seq_len=9"),
    ],
)
def test_long_examples_are_left_out_and_counted(files, caplog, options, architecture, limit, reason):
    data = module(files, **options)
    data.trainer = model(architecture, **({} if limit is None else {"max_seq_len": limit}))
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        data.setup("fit")
    encode = data.tokenizer.encode
    pairs = [(len(encode(source)), len(encode(target))) for source, target in sentences(300)]
    if architecture == "decoder-only":  # <bos> source <sep> target <eos>, of which all but the last are inputs
        fits = [
            t + 1 <= options.get("max_target_length", 999) and s + 2 + t + 1 - 1 <= (limit or 999) for s, t in pairs
        ]
    else:
        fits = [
            s + 1 <= options.get("max_source_length", 999)
            and s + t + 2 <= options.get("max_tokens", 256)
            and max(s, t) + 1 <= (limit or 999)
            for s, t in pairs
        ]
    assert 0 < sum(fits) < 300
    facts = data.fingerprint["splits"]["train"]
    assert facts["examples"] == sum(fits)
    assert facts["dropped"][reason] == 300 - sum(fits)
    assert f"train: {sum(fits)} examples kept, left out {300 - sum(fits)} {reason}" in caplog.text


def test_nothing_left_is_an_error(files):
    with pytest.raises(DataError, match=r"no example of train= is left \(300 with a source over max_source_length=1\)"):
        module(files, max_source_length=1).setup("fit")


def test_the_architecture_is_the_models(files):
    data = module(files)
    data.trainer = model("decoder-only", max_seq_len=64)
    data.setup("fit")
    assert "prefix_lengths" in next(iter(data.train_dataloader()))
    data.trainer = model("encoder-decoder", max_seq_len=64)
    data.setup("fit")
    assert "decoder_input_ids" in next(iter(data.train_dataloader()))
    data = module(files, architecture="decoder-only")
    data.trainer = model("encoder-decoder")
    with pytest.raises(UsageError, match="the data has architecture='decoder-only' and the model is 'encoder-decoder'"):
        data.setup("fit")


def test_loss_on_a_visible_prefix_is_refused(files):
    data = module(files, loss_on="all")
    data.trainer = model("decoder-only", prefix_lm=True)
    with pytest.raises(UsageError, match="loss_on='all' does not go with a prefix_lm model"):
        data.setup("fit")


@pytest.mark.parametrize("architecture", ["encoder-decoder", "decoder-only"])
def test_prompts_keep_their_order_and_their_format(files, architecture):
    # A budget below the longest prompt: no prompt is left out.
    data = module(files, predict=str(files / "prompts.txt"), architecture=architecture, max_tokens=8)
    data.setup("predict")
    prompts = []
    for batch in data.predict_dataloader():
        prompts += [row[mask].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    texts = (files / "prompts.txt").read_text().splitlines()
    assert prompts == [data.prompt_format.render(data.tokenizer.encode(text)) for text in texts]
    assert ("prefix_lengths" in batch) == (architecture == "decoder-only")


def test_fingerprint_is_plain_and_says_where_the_data_came_from(files):
    data = module(files, val=[files / "val.tsv.gz"])
    data.setup("fit")
    fingerprint = data.fingerprint
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert fingerprint["splits"]["train"]["files"][0]["name"] == "train.tsv.gz"
    assert fingerprint["splits"]["train"]["examples"] == 300
    assert fingerprint["splits"]["val"]["examples"] == 40
    assert fingerprint["tokenizer"]["vocab_size"] == data.vocab_size
    assert fingerprint["options"]["max_tokens"] == 256
    tokens = sum(int(batch["attention_mask"].sum()) for batch in data.train_dataloader())
    tokens += sum(int((batch["labels"] != -100).sum()) for batch in data.train_dataloader())
    assert fingerprint["splits"]["train"]["tokens"] == tokens


def test_bad_lines_are_counted_in_the_fingerprint(tmp_path):
    (tmp_path / "a.tsv").write_text("dog\tHund\nno tab\n" * 3)
    with pytest.raises(DataError, match="3 bad lines"):
        PairDataModule(train=str(tmp_path / "a.tsv")).setup("fit")
    data = PairDataModule(train=str(tmp_path / "a.tsv"), on_bad_line="skip", vocab_size=100)
    with pytest.warns(UserWarning, match="left out 3 bad lines"):
        data.setup("fit")
    assert data.fingerprint["splits"]["train"]["bad_lines"] == 3


def test_hyperparameters_are_plain_and_a_checkpoint_can_hold_them(files, tmp_path):
    class Mine(PairDataModule):
        def __init__(self, extra: int = 3, **options):
            super().__init__(**options)

    data = Mine(extra=4, train=files / "train.tsv.gz", val=[files / "val.tsv.gz"])
    assert data.hparams["extra"] == 4
    assert data.hparams["train"] == str(files / "train.tsv.gz")
    assert data.hparams_initial["val"] == [str(files / "val.tsv.gz")]
    torch.save(dict(data.hparams), tmp_path / "hparams.pt")
    assert torch.load(tmp_path / "hparams.pt", weights_only=True)["max_tokens"] == 4096


def test_overfitting_sees_the_same_batches_in_every_epoch(files):
    data = module(files)
    data.trainer = model("encoder-decoder")
    data.trainer.overfit_batches = 2
    data.setup("fit")
    loader = data.train_dataloader()
    loader.batch_sampler.sampler.set_epoch(1)
    first = next(iter(loader))["input_ids"]
    loader.batch_sampler.sampler.set_epoch(2)
    assert torch.equal(next(iter(loader))["input_ids"], first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "encoder"}, "expected 'encoder-decoder' or 'decoder-only'"),
        ({"loss_on": "source"}, "expected 'target' or 'all'"),
        ({"val_fraction": 1.0}, "expected at least 0 and below 1"),
        ({"max_tokens": 0}, "expected a positive number"),
        ({"on_bad_line": "fix"}, "expected 'raise' or 'skip'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        PairDataModule(train="missing.tsv", **options)
