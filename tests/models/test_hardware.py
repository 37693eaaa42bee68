"""bfloat16 where a processor only imitates it."""

import logging

import pytest
import torch

from integration.toy_trainer import Batches, trainer, uneven_batches
from litseq.models.hardware import has_bfloat16, lacks_bfloat16
from models.toy_batches import decoder_only_batch, tiny_decoder_only


@pytest.mark.parametrize(
    ("capabilities", "lacks", "has"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True, False),
        ({"architecture": "x86_64"}, True, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, False, True),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, False, True),
        ({"architecture": "aarch64"}, False, False),
        ({}, False, False),
    ],
)
def test_bfloat16_is_known_of_x86_processors_only(monkeypatch, capabilities, lacks, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert lacks_bfloat16() is lacks
    assert has_bfloat16() is has


@pytest.mark.parametrize(
    ("precision", "lacks", "said"), [("bf16-mixed", True, 1), ("bf16-mixed", False, 0), ("32-true", True, 0)]
)
def test_a_training_that_will_be_slow_says_so(monkeypatch, caplog, precision, lacks, said):
    monkeypatch.setattr("litseq.models.base.lacks_bfloat16", lambda: lacks)
    with caplog.at_level(logging.INFO):
        run = trainer(precision=precision, max_steps=1, limit_val_batches=0)
        run.fit(tiny_decoder_only(), Batches(decoder_only_batch, uneven_batches(1)))
    assert sum("32-true is faster here" in record.getMessage() for record in caplog.records) == said
