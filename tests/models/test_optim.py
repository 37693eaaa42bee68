import math

import lightning
import pytest
import torch

from litseq.errors import UsageError
from litseq.models import DecoderOnly
from litseq.models.optim import default_optimizer, learning_rate_factor, parameter_groups
from models.toy_batches import tiny_encoder_decoder


def test_matrices_decay_and_nothing_else():
    module = tiny_encoder_decoder(bias=True, tie_embeddings=False, norm="layer", position="learned")
    decayed, kept = parameter_groups(module)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    kept_names = [names[id(parameter)] for parameter in kept["params"]]
    decayed_names = [names[id(parameter)] for parameter in decayed["params"]]
    assert kept["weight_decay"] == 0
    assert "weight_decay" not in decayed  # the optimiser's own
    assert sorted(kept_names + decayed_names) == sorted(names.values())
    assert all(
        "norm" in name or name.endswith("bias") or "embedding" in name or "position" in name for name in kept_names
    )
    assert "decoder.lm_head.weight" in decayed_names


def test_frozen_parameters_are_left_out():
    module = tiny_encoder_decoder()
    module.encoder.requires_grad_(False)
    ids = {id(parameter) for group in parameter_groups(module) for parameter in group["params"]}
    assert not ids & {id(parameter) for parameter in module.encoder.parameters()}


def test_default_is_adamw():
    optimizer = default_optimizer(tiny_encoder_decoder(), learning_rate=0.01, weight_decay=0.1)
    assert type(optimizer) is torch.optim.AdamW
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.98)


def test_inverse_sqrt_needs_no_end():
    factor = learning_rate_factor("inverse_sqrt", 100, math.inf)
    # "Attention is all you need", 5.3, over its peak: min(step**-0.5, step * warmup**-1.5) * warmup**0.5
    for step in (1, 50, 100, 101, 400, 10_000):
        assert factor(step - 1) == pytest.approx(min(step**-0.5, step * 100**-1.5) * 100**0.5)


def test_cosine_equals_torch():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    factor = learning_rate_factor("cosine", 10, 100)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    for step in range(10, 101):
        assert factor(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        reference.step()


def test_cosine_ends_with_the_time_where_that_comes_first():
    used = 0.0
    factor = learning_rate_factor("cosine", 10, math.inf, used_time=lambda: used)
    assert factor(1000) == 1.0
    used = 0.5
    assert factor(1000) == pytest.approx(0.5)
    used = 1.0
    assert factor(1000) == pytest.approx(0.0)
    stepped = learning_rate_factor("cosine", 0, 100, used_time=lambda: 0.1)
    assert stepped(100) == pytest.approx(0.0)


def test_constant_has_a_warmup():
    factor = learning_rate_factor("constant", 4, math.inf)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert learning_rate_factor("constant", 0, math.inf)(0) == 1.0


def test_cosine_without_an_end_is_refused():
    with pytest.raises(UsageError, match=r"cosine.*max_epochs, max_steps or max_time"):
        learning_rate_factor("cosine", 10, math.inf)


def test_unknown_schedule_is_refused():
    with pytest.raises(UsageError, match=r"'linear', expected one of inverse_sqrt, cosine, constant"):
        learning_rate_factor("linear", 10, 100)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_can_be_clipped_in_every_precision(precision, tmp_path):
    module = DecoderOnly(vocab_size=20, embed_dim=16, num_layers=1, num_heads=2, max_seq_len=8)
    ids = torch.randint(0, 20, (4, 8))
    batch = {"input_ids": ids, "labels": ids}
    trainer = lightning.Trainer(
        max_steps=1, precision=precision, gradient_clip_val=0.5, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([batch], batch_size=None))
    assert trainer.global_step == 1
