"""Beside torch.nn.Dropout: rate, scale, gradient, and when it leaves everything alone."""

import pytest
import torch
from torch import nn

from litseq.nn.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeroes_at_the_rate_and_scales_the_rest_as_torch_does(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1000, 333, dtype=dtype)
    ours, theirs = Dropout(p)(x), nn.Dropout(p)(x)
    assert ours.dtype == dtype
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs((ours == 0).double().mean().item() - p) < 5 * deviation
    torch.testing.assert_close(ours.unique(), theirs.unique(), rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=0)


def test_each_of_the_elements_that_share_a_draw_has_the_same_rate_and_goes_by_itself():
    torch.manual_seed(1)
    dropped = Dropout(0.25)(torch.ones(200_000, 4)) == 0
    together = dropped.double().T @ dropped.double() / len(dropped)
    expected = torch.full((4, 4), 0.25**2).fill_diagonal_(0.25)
    assert (together - expected).abs().max() < 0.005


def test_the_gradient_goes_where_the_value_went():
    x = torch.randn(7, 5, 3, requires_grad=True)
    out = Dropout(0.4)(x)
    out.sum().backward()
    torch.testing.assert_close(out, x * x.grad)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_the_seed_decides():
    x, dropout = torch.ones(50, 3), Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_at_a_rate_of_zero():
    x = torch.randn(4, 9)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("shape", [(0, 4), (), (1,), (3, 1, 5)])
def test_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_everything_is_dropped_at_a_rate_of_one():
    assert Dropout(1.0)(torch.ones(8)).sum() == 0


def test_a_rate_outside_of_zero_to_one_is_refused():
    with pytest.raises(ValueError, match="probability"):
        Dropout(1.5)


def test_it_is_torchs_own_to_whoever_asks():
    assert isinstance(Dropout(0.5), nn.Dropout)


def test_in_place_works_in_place():
    x = torch.ones(100)
    Dropout(0.5, inplace=True)(x)
    assert (x == 0).any()
