"""The demo, small: every step of it runs and the two models weigh the same. The slow test holds it to its promise."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from litseq.demo.run import build_decoder_only, build_encoder_decoder, run_demo
from litseq.demo.settings import DemoSettings
from litseq.runtime import Generator

SMALL = DemoSettings(
    train_pairs=300, val_pairs=10, test_pairs=20, embed_dim=16, encoder_decoder_layers=1, decoder_only_layers=2
)


def weight(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_models_are_of_equal_weight():
    settings = DemoSettings()
    sizes = [weight(build(settings, settings.vocab_size)) for build in (build_encoder_decoder, build_decoder_only)]
    assert max(sizes) / min(sizes) < 1.02


def test_small_demo(tmp_path):
    stream = io.StringIO()
    out = tmp_path / "demo"
    results = run_demo(SMALL, out, console=Console(file=stream, width=120))
    objects = json.loads((out / "results.json").read_text())
    assert [item["architecture"] for item in objects] == ["encoder-decoder", "decoder-only"]
    assert sorted(p.name for p in out.iterdir()) == ["decoder-only", "encoder-decoder", "results.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]
    for item, result in zip(objects, results, strict=True):
        assert item["parity"] == 1.0
        assert item["bundle"] == str(out / item["architecture"])
        generator = Generator.from_bundle(item["bundle"], threads=1)
        assert generator.manifest.model.parameters == item["parameters"]
        assert len(result.outputs) == SMALL.test_pairs
    assert "exact match" in stream.getvalue()


LONG = """
import functools, sys
from litseq.cli.main import main
from litseq.demo import settings
settings.DemoSettings = functools.partial(settings.DemoSettings, train_pairs=300, val_pairs=10, embed_dim=16, epochs=9999)
sys.exit(main(["demo", "--out", sys.argv[1]]))
"""


@pytest.mark.parametrize("moment", ["Spelling", "Epoch"])
def test_interrupt_leaves_nothing(tmp_path, moment, start):
    log = tmp_path / "stdout"
    command = [sys.executable, "-c", LONG, str(tmp_path / "demo")]
    environment = os.environ | {"FORCE_COLOR": "1"}  # as in a terminal, so that the bars are drawn as they move
    with log.open("w") as stream:
        process = start(command, stdout=stream, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 120
    while moment not in log.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "litseq: error: interrupted; nothing half-written was kept\n"
    assert list(tmp_path.iterdir()) == [log]


@pytest.mark.slow
def test_demo_keeps_its_promise(tmp_path):
    results = run_demo(DemoSettings(), tmp_path / "demo", console=Console(file=io.StringIO()))
    for result in results:
        assert result.exact_match >= 0.97
        assert result.parity == 1.0
