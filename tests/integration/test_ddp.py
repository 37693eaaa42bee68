import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from integration import ddp_run

TESTS = Path(__file__).parents[1]


def test_two_processes_equal_one(tmp_path):
    """Same global batches, uneven tokens a rank: weights after clipped steps, loss curve and validation agree.

    So do the gradients of layers sharded over the two. One start of two processes serves for all of it.
    """
    source = TESTS.parent / "src"
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{'ab' * (i % 9)}{i}\t{i}{'cd' * (i % 7)}\n" for i in range(121)))
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{source}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(TESTS / "integration" / "ddp_run.py"), str(tmp_path / "two.pt"), str(pairs)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    _, one = ddp_run.train(devices=1)

    assert len(one["losses"]) == 3
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-5)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, atol=2e-6, rtol=0)

    one_on_file = ddp_run.train_on_file(1, pairs)
    assert len(one_on_file) > 10
    assert two["file losses"] == pytest.approx(one_on_file, abs=1e-4)
    assert one_on_file[max(one_on_file)] < one_on_file[1]

    plain = ddp_run.plain_gradients()
    assert two["sharded"].keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(two["sharded"][name], gradient, atol=1e-6, rtol=0)
