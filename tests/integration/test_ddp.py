import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from integration import ddp_run

TESTS = Path(__file__).parents[1]


def test_two_processes_equal_one(tmp_path):
    """Same global batches, uneven tokens a rank: weights after clipped steps, loss curve and validation agree."""
    source = TESTS.parent / "src"
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{source}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(TESTS / "integration" / "ddp_run.py"), str(tmp_path / "two.pt")],
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
