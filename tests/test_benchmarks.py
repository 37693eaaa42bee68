"""The scripts of benchmarks/ run: small, and without judging speed."""

import json
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch

from litseq.data import PairDataModule
from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("cls", [DecoderOnly, EncoderDecoder])
def test_check_parity(cls: type, tmp_path: Path) -> None:
    words = ["red", "green", "blue", "cat", "dog"]
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a} {b}\t{b} {a}\n" for a in words for b in words))
    torch.manual_seed(0)
    data = PairDataModule(train=str(file), vocab_size=40)
    module = cls(vocab_size=40, embed_dim=32, num_layers=1, num_heads=2, max_seq_len=24)
    trainer = lightning.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    export_bundle(module, data.tokenizer, tmp_path / "bundle")
    arguments = [str(tmp_path / "model.ckpt"), str(tmp_path / "bundle"), str(file), "--sentences", "12"]
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / "check_parity.py"), *arguments], capture_output=True, text=True, check=True
    )
    report = json.loads(ran.stdout)
    assert report["equal at batch 1"] == report["equal at batch 32"] == "12 of 12"
    assert report["largest difference of a logit"] < 1e-4
