"""Rounding against what it promises: small errors, and smaller ones where the calibration says that they count."""

import numpy as np
import pytest

from litseq.quantize.blocks_form import block_size
from litseq.quantize.compensation import Sensitivity, compensate
from litseq.quantize.rounding import fit, in_blocks, round_to_nearest
from litseq.quantize.rows_form import round_rows


def matrix(outputs=24, width=96, seed=0):
    return np.random.default_rng(seed).standard_normal((outputs, width)).astype(np.float32)


def test_rows_are_at_most_half_a_step_off():
    weights = matrix()
    weights[3] = 0
    rounded = round_rows("w", weights)
    back = rounded.integers * rounded.scales[:, None]
    assert (np.abs(back - weights).max(1) <= np.abs(weights).max(1) / 254 + 1e-7).all()
    assert not rounded.integers[3].any()


@pytest.mark.parametrize(("bits", "block", "bound"), [(8, 32, 0.02), (4, 32, 0.5), (4, 16, 0.4)])
def test_blocks_are_near(bits, block, bound):
    weights = matrix()
    rounded = round_to_nearest("w", weights, bits, block)
    assert rounded.integers.max() < 1 << bits
    assert np.abs(rounded.dequantized() - weights).max() < bound


def test_a_searched_scale_is_never_worse_than_the_whole_range():
    blocks = in_blocks(matrix(), 32)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    whole = (np.clip(np.rint(blocks / scale[..., None]) + zero[..., None], 0, 15) - zero[..., None]) * scale[..., None]
    rounded = round_to_nearest("w", matrix(), 4, 32).dequantized()
    assert np.square(rounded - matrix()).sum() < np.square(whole.reshape(24, 96) - matrix()).sum()
    assert fit(np.zeros((2, 32), np.float32), 4)[0].all()  # no scale is zero


def test_widths_that_no_block_divides_are_padded():
    weights = matrix(width=40)
    rounded = round_to_nearest("w", weights, 4, 32)
    assert rounded.integers.shape == (24, 2, 32)
    assert rounded.dequantized().shape == (24, 40)
    assert [block_size(width, 128) for width in (768, 576, 96, 40)] == [128, 64, 32, 32]


def test_what_errors_of_inputs_cost():
    x = matrix(200, 12) * np.linspace(1, 3, 12, dtype=np.float32)[np.random.default_rng(2).permutation(12)]
    hessian = x.T @ x
    found = Sensitivity.of(hessian)
    assert np.diagonal(hessian)[found.order].tolist() == sorted(np.diagonal(hessian).tolist(), reverse=True)
    damped = hessian + 0.01 * np.diagonal(hessian).mean() * np.eye(12)
    inverse = np.linalg.inv(damped)
    # GPTQ: the upper factor of the inverse, of the inputs in the order in which they are rounded
    expected = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(found.order, found.order)])).T
    assert np.allclose(found.factor, np.triu(found.factor))
    assert np.allclose(found.factor, expected, rtol=1e-3, atol=1e-6)
    assert np.allclose(found.importance(), 1 / np.diagonal(inverse), rtol=1e-3)


@pytest.mark.parametrize("width", [96, 200, 40])
def test_compensated_rounding_changes_products_less(width):
    generator = np.random.default_rng(1)
    # Inputs that hang together, as those of a network do: errors can be made up for.
    x = (generator.standard_normal((500, width // 4)) @ generator.standard_normal((width // 4, width))).astype(
        np.float32
    )
    x += 0.1 * generator.standard_normal(x.shape).astype(np.float32)
    weights = matrix(width=width)
    block = block_size(width, 32)
    nearest = round_to_nearest("w", weights, 4, block)
    better = compensate("w", weights, Sensitivity.of(x.T @ x), 4, block)
    errors = [np.square(x @ (w.dequantized() - weights).T).sum() for w in (nearest, better)]
    assert errors[1] < 0.5 * errors[0]


def test_without_correlations_compensation_is_plain_rounding():
    weights = matrix()
    found = compensate("w", weights, Sensitivity.of(np.eye(96, dtype=np.float32)), 4, 32)
    assert np.array_equal(found.integers, round_to_nearest("w", weights, 4, 32).integers)


def test_large_inputs_are_rounded_while_others_can_make_up_for_them():
    generator = np.random.default_rng(3)
    x = (generator.standard_normal((500, 24)) @ generator.standard_normal((24, 96))).astype(np.float32)
    x += 0.1 * generator.standard_normal(x.shape).astype(np.float32)
    x[:, 64:] *= 8
    weights, sensitivity = matrix(), Sensitivity.of(x.T @ x)
    assert set(sensitivity.order[:32]) == set(range(64, 96))
    damped = (x.T @ x).astype(np.float64)
    damped[np.diag_indices(96)] += 0.01 * np.diagonal(damped).mean()
    in_turn = Sensitivity(np.arange(96), np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32))
    errors = [
        np.square(x @ (compensate("w", weights, each, 4, 32).dequantized() - weights).T).sum()
        for each in (in_turn, sensitivity)
    ]
    assert errors[1] < 0.8 * errors[0]
