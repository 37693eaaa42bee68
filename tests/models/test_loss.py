import pytest
import torch
from torch.nn import functional

from litseq.models import loss as loss_module
from litseq.models.loss import cross_entropy_sum, token_cross_entropy
from models.toy_batches import decoder_only_batch, pairs, tiny_decoder_only


@pytest.fixture
def case():
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 4, requires_grad=True)
    labels = torch.randint(0, 7, (3, 5))
    labels[0, 2:] = labels[2, 0] = -100
    return hidden, labels, torch.nn.Linear(4, 7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_cross_entropy_over_every_position(case, smoothing):
    hidden, labels, head = case
    logits = head(hidden)
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)

    found = token_cross_entropy(hidden, labels, head, smoothing, count_correct=True)

    assert found.token_count == 11
    torch.testing.assert_close(found.loss_sum / found.token_count, expected)
    correct = ((logits.argmax(-1) == labels) & (labels != -100)).sum()
    assert found.correct_count == correct


@pytest.mark.parametrize("chunk", [1, 23, 2**18])  # a row at a time, two rows and one left over, all at once
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sum_and_gradient_are_those_of_torch(monkeypatch, dtype, smoothing, chunk):
    monkeypatch.setattr(loss_module, "CPU_CHUNK", chunk)
    torch.manual_seed(0)
    logits = (8 * torch.randn(7, 11)).to(dtype)
    logits[3, 2] = 300.0  # what overflows where the maximum is not taken off first
    targets = torch.randint(0, 11, (7,))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    found = cross_entropy_sum(ours, targets, smoothing)
    expected = functional.cross_entropy(theirs.float(), targets, reduction="sum", label_smoothing=smoothing)
    (0.25 * found).backward()
    (0.25 * expected).backward()

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_single_precision_whatever_the_default_is():
    """Lightning's `bf16-true` makes bfloat16 the default dtype around every step."""
    torch.manual_seed(0)
    logits, targets = (8 * torch.randn(300, 50)).bfloat16(), torch.randint(0, 50, (300,))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = functional.cross_entropy(theirs.float(), targets, reduction="sum")
    expected.backward()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = cross_entropy_sum(ours, targets)
        found.backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_graph_that_is_kept_can_be_gone_through_twice():
    logits = torch.randn(5, 9, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.arange(5), 0.1)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(second, 3 * first)


def test_nothing_is_learned_from_logits_without_a_gradient():
    assert not cross_entropy_sum(torch.randn(5, 9), torch.arange(5)).requires_grad


def test_nll_is_without_smoothing(case):
    hidden, labels, head = case
    plain = token_cross_entropy(hidden, labels, head)
    smooth = token_cross_entropy(hidden, labels, head, 0.3, count_correct=True)
    torch.testing.assert_close(smooth.nll_sum, plain.loss_sum)
    assert smooth.loss_sum != plain.loss_sum


def test_only_labelled_positions_meet_the_head(case):
    hidden, labels, head = case
    rows = []
    token_cross_entropy(hidden, labels, lambda x: rows.append(len(x)) or head(x))
    assert rows == [11]


def test_no_label_at_all_gives_zero_with_a_gradient(case):
    hidden, labels, head = case
    found = token_cross_entropy(hidden, torch.full_like(labels, -100), head)
    found.loss_sum.backward()  # under DDP every rank must take part in backward
    assert found.loss_sum == 0
    assert found.token_count == 0
    assert hidden.grad.abs().sum() == 0
    assert head.weight.grad is not None


def test_smoothing_takes_part_in_training_only():
    module = tiny_decoder_only(label_smoothing=0.2)
    batch = decoder_only_batch(pairs(4, seed=0))
    smooth = module.train().compute_loss(batch)
    plain = module.eval().compute_loss(batch)
    assert smooth.loss_sum != plain.loss_sum
    assert plain.nll_sum is None
