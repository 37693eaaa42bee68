import lightning
import pytest
import torch

from litseq.callbacks import CompileLayers
from models.toy_batches import tiny_encoder_decoder

IDS = torch.arange(10).view(2, 5)
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS).bool(), "decoder_input_ids": IDS, "labels": IDS}


def _fit(*callbacks: CompileLayers) -> list[torch.Tensor]:
    torch.manual_seed(0)
    module = tiny_encoder_decoder()
    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([BATCH, BATCH], batch_size=None))
    return list(module.parameters())


def test_without_a_compiler_it_trains_uncompiled_and_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler 'no-such-compiler' is on this machine"):
        found = _fit(CompileLayers())
    assert all(torch.equal(mine, plain) for mine, plain in zip(found, _fit(), strict=True))


def test_a_backend_that_needs_no_compiler_asks_for_none(monkeypatch, recwarn):
    monkeypatch.setenv("CXX", "no-such-compiler")
    _fit(CompileLayers(backend="eager"))
    assert not [warning for warning in recwarn if "CompileLayers" in str(warning.message)]
