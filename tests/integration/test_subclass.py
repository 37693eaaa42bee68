"""The promise in one file: what a user changes fits, checkpoints, reloads as itself, exports and generates the same."""

from pathlib import Path

import lightning
import pytest
import torch

from integration import user_modules
from litseq.data import PairDataModule, TextDataModule
from litseq.errors import ExportError
from litseq.export import assert_exportable, export_bundle
from litseq.models import load_module
from litseq.models.predict import generate_ids
from litseq.runtime import Generator
from litseq.text import PromptFormat

SIZES = {"embed_dim": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 48, "dropout": 0.0}
WORDS = ["red", "green", "blue", "old", "new", "cat", "dog", "bird"]
TRANSLATORS = ["NormedTranslator", "CappedTranslator"]
LANGUAGE_MODELS = ["TalkingModel", "AlibiModel", "MixedModel"]


@pytest.fixture(scope="module")
def data_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    pairs = [(f"{a} {b}", f"{b[::-1]} {a[::-1]}") for a in WORDS for b in WORDS]
    (directory / "pairs.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in pairs))
    (directory / "text.txt").write_text("".join(f"the {s} is a {t}\n" for s, t in pairs))
    return directory


def fit(name: str, data_files: Path, directory: Path) -> Path:
    if name in TRANSLATORS:
        data = PairDataModule(train=str(data_files / "pairs.tsv"), val_fraction=0.1, vocab_size=60, max_tokens=512)
    else:
        data = TextDataModule(
            train=str(data_files / "text.txt"), val_fraction=0.1, vocab_size=60, max_tokens=512, block_size=48
        )
    torch.manual_seed(0)
    module = getattr(user_modules, name)(vocab_size=60, warmup_steps=5, learning_rate=3e-3, **SIZES)
    trainer = lightning.Trainer(
        max_steps=12, logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=directory,
        enable_checkpointing=False, accelerator="cpu", log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data)
    checkpoint = directory / "model.ckpt"
    trainer.save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize("name", TRANSLATORS + LANGUAGE_MODELS)
def test_a_subclass_lives_through_everything(name: str, data_files: Path, tmp_path: Path) -> None:
    checkpoint = fit(name, data_files, tmp_path)
    module = load_module(checkpoint)
    assert type(module).__name__ == name
    tokenizer = module.record.load_tokenizer()
    report = export_bundle(module, tokenizer, tmp_path / "bundle")
    assert report.token_agreement == 1.0

    generator = Generator.from_bundle(tmp_path / "bundle", threads=1)
    texts = ["red cat", "a", "new bird old dog", ""] if name in TRANSLATORS else ["the red", "the old dog is", "the"]
    form = PromptFormat.from_dict(module.record.prompt_format)
    rendered = [form.render(tokenizer.encode(text)) for text in texts]
    options = {"max_new_tokens": 12}
    expected = generate_ids(module, rendered, options)
    found = generator.generate(texts, **options)
    assert [list(completion.token_ids) for completion in found] == expected
    alone = [generator.generate([text], **options)[0] for text in texts]
    assert [list(completion.token_ids) for completion in alone] == expected


def test_a_subclass_keeps_its_own_argument(data_files: Path, tmp_path: Path) -> None:
    module = user_modules.NormedTranslator(gate_width=20, vocab_size=60, **SIZES)
    trainer = lightning.Trainer(
        max_steps=1, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
        default_root_dir=tmp_path, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, PairDataModule(train=str(data_files / "pairs.tsv"), vocab_size=60))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = load_module(tmp_path / "model.ckpt")
    assert again.hparams["gate_width"] == 20
    assert again.decoder.layers[0].feed_forward.down.in_features == 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("UnexportableModel", ("user_modules.py", "data-dependent")),
        ("GrowingModel", ("present_key.0", "keeps its shape", "write_cache")),
        ("SilentModel", ("SilentHeads", "cache_dims")),
        ("PlacedModel", ("disagree", "at '1 row of 48 tokens")),
        ("UnknownOpModel", ("bessel_i0", "user_modules.py", "no ONNX form")),
    ],
)
def test_what_cannot_be_exported_is_named(name: str, words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    module = getattr(user_modules, name)(vocab_size=20, **SIZES)
    with pytest.raises(ExportError) as caught:
        assert_exportable(module)
    message = str(caught.value)
    assert all(word in message for word in words)
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
