"""Quantising needs no torch, and says in one line when onnx_ir is missing."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
for name in ("torch", "lightning", "pytorch_lightning", "torchmetrics", "onnxscript", "jsonargparse", {more}):
    sys.modules[name] = None
from litseq.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def litseq(*arguments, more="'transformers'"):
    command = [sys.executable, "-c", PROGRAM.replace("{more}", more), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "160"})


@pytest.fixture
def bundle(pytestconfig):
    return pytestconfig.rootpath / "tests" / "fixtures" / "exported-decoder-only"


@pytest.mark.parametrize("to", ["int8", "int4"])
def test_it_runs_where_torch_cannot_be_imported(bundle, tmp_path, to):
    run = litseq("quantize", bundle, tmp_path / "out", "--to", to, "--threads", "1")
    assert run.returncode == 0, run.stderr
    assert "same greedy token" in run.stdout
    assert "onnxruntime" in run.stdout
    run = litseq("inspect", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert "report.greedy_agreement" in run.stdout
    run = litseq("generate", tmp_path / "out", "--threads", "1", "the")
    assert run.returncode == 0, run.stderr


def test_without_onnx_ir_it_names_the_extra(bundle, tmp_path):
    run = litseq("quantize", bundle, tmp_path / "out", "--to", "int8", more="'onnx_ir'")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "litseq quantize needs onnx_ir" in run.stderr
    assert "pip install 'litseq[quantize]'" in run.stderr
    run = litseq("generate", bundle, "--threads", "1", "the", more="'onnx_ir'")
    assert run.returncode == 0, run.stderr
