import copy

import lightning
import pytest
import torch

from litseq.errors import UsageError
from litseq.models import DecoderOnly, MuonAdamW
from litseq.models.muon import orthogonal
from litseq.models.optim import parameter_groups
from models.toy_batches import tiny_encoder_decoder

IDS = torch.arange(10).view(2, 5)


def _model() -> DecoderOnly:
    torch.manual_seed(0)
    return DecoderOnly(vocab_size=32, embed_dim=16, num_layers=2, num_heads=2, dropout=0.0, bias=True)


def _backward(module: DecoderOnly) -> None:
    module.zero_grad()
    module(IDS).logsumexp(-1).sum().backward()


def _equal(left: DecoderOnly, right: DecoderOnly) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_steps_as_torchs_two_optimisers_do(monkeypatch):
    # In bfloat16 the iterations would differ by their rounding: torch has the matrices of a shape one by one.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    ours, theirs = _model(), _model()
    pair = MuonAdamW(parameter_groups(ours), lr=0.01, weight_decay=0.1)
    matrices, rest = (group["params"] for group in parameter_groups(theirs))
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0, betas=(0.9, 0.95))
    for _ in range(3):
        _backward(ours), pair.step()
        _backward(theirs), muon.step(), adamw.step()
    for mine, torchs in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, torchs, atol=1e-6, rtol=0)
    assert not _equal(ours, _model())


@pytest.mark.parametrize(("has", "dtype", "atol"), [(False, torch.float32, 1e-4), (True, torch.bfloat16, 0.03)])
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 48, 16), (2, 16, 48)])
def test_updates_have_the_gradients_directions_and_even_sizes(monkeypatch, shape, has, dtype, atol):
    monkeypatch.setattr("litseq.models.muon.has_bfloat16", lambda: has)
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal(matrices)
    assert found.dtype is dtype
    inner = u.mT @ found.float() @ vh.mT  # diagonal in the same directions
    sizes = inner.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inner, torch.diag_embed(sizes), atol=atol, rtol=0)
    assert sizes.min() > 0.6
    assert sizes.max() < 1.25


def test_one_tensor_is_stepped_as_it_is_beside_others():
    alone, beside = _model(), _model()
    name = "decoder.layers.0.feed_forward.down.weight"
    single = MuonAdamW([{"params": [alone.get_parameter(name)], "matrices": True}], lr=0.01)
    every = MuonAdamW(parameter_groups(beside), lr=0.01)
    _backward(alone), single.step()
    _backward(beside), every.step()
    torch.testing.assert_close(alone.get_parameter(name), beside.get_parameter(name), atol=1e-6, rtol=0)


def test_a_loaded_state_goes_on_with_the_same_bits():
    whole = _model()
    optimizer = MuonAdamW(parameter_groups(whole))
    for _ in range(2):
        _backward(whole), optimizer.step()
    weights, state = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    resumed = _model()
    resumed.load_state_dict(weights)
    again = MuonAdamW(parameter_groups(resumed))
    again.load_state_dict(state)
    _backward(whole), optimizer.step()
    _backward(resumed), again.step()
    assert _equal(whole, resumed)


def test_schedules_reach_both():
    optimizer = MuonAdamW(parameter_groups(tiny_encoder_decoder()), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step(), scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    before = [parameter.clone() for group in optimizer.param_groups for parameter in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_has_no_two_dimensions_is_adamws():
    kernel, matrix = torch.nn.Parameter(torch.ones(2, 2, 3)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([{"params": [kernel, matrix], "matrices": True}])
    assert [(group["matrices"], len(group["params"])) for group in optimizer.param_groups] == [(True, 1), (False, 1)]


@pytest.mark.parametrize("mark", [{}, {"matrices": False}])
def test_groups_without_matrices_are_refused(mark):
    with pytest.raises(UsageError, match="parameter_groups"):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.ones(2, 2))], **mark}])


def test_lightning_trains_with_it_and_clips():
    module = tiny_encoder_decoder()
    module._optimizer_factory = lambda groups: MuonAdamW(groups, lr=0.01)
    batch = {
        "input_ids": IDS, "attention_mask": torch.ones_like(IDS).bool(), "decoder_input_ids": IDS, "labels": IDS,
    }  # fmt: skip
    before = [parameter.clone() for parameter in module.parameters()]
    trainer = lightning.Trainer(
        max_steps=2, gradient_clip_val=0.5, precision="bf16-mixed", accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader([batch, batch], batch_size=None))
    assert all(not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
