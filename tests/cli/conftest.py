"""One tiny trained checkpoint and a bundle for all tests of the command line."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from cli.files import BUNDLE, FAST, PROMPTS
from litseq.cli import main as cli

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAIRS = [(f"{word} {other}", f"{other} {word}") for word in ("a", "bc", "def") for other in ("x", "yz", "uvw")]


def write_pairs(path):
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    pytest.importorskip("torch", reason="needs the extra [train]")
    import lightning

    from litseq.data import PairDataModule
    from litseq.models import DecoderOnly

    directory = tmp_path_factory.mktemp("checkpoint")
    data = PairDataModule(train=str(write_pairs(directory / "train.tsv")), tokenizer_kind="char", max_tokens=256)
    module = DecoderOnly(vocab_size=data.vocab_size, embed_dim=16, num_layers=1, num_heads=2, max_seq_len=32)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(directory / "tiny.ckpt")
    return directory / "tiny.ckpt"


@pytest.fixture(scope="session")
def bundle(request):
    """What `litseq export` makes of the checkpoint, or without torch one made earlier; a test that damages it copies it."""
    if not find_spec("torch"):
        return FIXTURES / "tiny-decoder-only"
    from litseq.cli.main import main

    checkpoint = request.getfixturevalue("checkpoint")

    target = checkpoint.parent / "bundle"
    assert main(["export", str(checkpoint), str(target)]) == 0
    return target


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run over files of the directory; exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(["generate", BUNDLE, *FAST, *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return file
