import numpy as np
import onnxruntime
import pytest

from litseq.bench import limits
from litseq.bench.limits import matmul_graph, matmul_speed, read_bandwidth


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(limits, "_READ_BYTES", 2**16)
    monkeypatch.setattr(limits, "_MATRIX", (8, 32, 16))
    monkeypatch.setattr(limits, "_ROUNDS", 1)


@pytest.mark.parametrize("integer", [False, True])
def test_the_graph_multiplies(integer):
    session = onnxruntime.InferenceSession(matmul_graph(32, 16, integer=integer), providers=["CPUExecutionProvider"])
    x = np.arange(3 * 32).reshape(3, 32) % 7
    (found,) = session.run(None, {"x": x.astype(np.uint8 if integer else np.float32)})
    weights = np.random.default_rng(0).integers(-100, 100, (32, 16))
    np.testing.assert_array_equal(found, x @ weights)


def test_limits_are_positive_and_have_no_threads_of_their_own():
    assert read_bandwidth(2) > 0
    assert matmul_speed(1) > 0
    assert matmul_speed(1, integer=True) > 0
