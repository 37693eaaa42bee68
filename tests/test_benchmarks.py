"""The scripts of benchmarks/ run: small, and without judging speed."""

import json
import subprocess
import sys
from pathlib import Path

import lightning
import pytest
import torch

from litseq.data import PairDataModule
from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("cls", [DecoderOnly, EncoderDecoder])
def test_check_parity(cls: type, tmp_path: Path) -> None:
    words = ["red", "green", "blue", "cat", "dog"]
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a} {b}\t{b} {a}\n" for a in words for b in words))
    torch.manual_seed(0)
    data = PairDataModule(train=str(file), vocab_size=40)
    module = cls(vocab_size=40, embed_dim=32, num_layers=1, num_heads=2, max_seq_len=24)
    trainer = lightning.Trainer(
        max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    export_bundle(module, data.tokenizer, tmp_path / "bundle")
    arguments = [str(tmp_path / "model.ckpt"), str(tmp_path / "bundle"), str(file), "--sentences", "12"]
    ran = subprocess.run(
        [sys.executable, str(BENCHMARKS / "check_parity.py"), *arguments], capture_output=True, text=True, check=True
    )
    report = json.loads(ran.stdout)
    assert report["equal at batch 1"] == report["equal at batch 32"] == "12 of 12"
    assert report["largest difference of a logit"] < 1e-4


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of benchmarks/peers can be imported by their names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))


def test_systems_take_turns_and_are_compared(peers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import measure
    from cases import Case
    from processes import Unavailable, Worker
    from report import render
    from shapes import SHAPES

    shape = replace(SHAPES["tiny"], vocab=290)
    monkeypatch.setitem(SHAPES, "tiny", shape)
    (tmp_path / "litseq-fp32").symlink_to(BENCHMARKS.parent / "tests" / "fixtures" / "tiny-encoder-decoder")
    places = {"precision": "fp32", "threads": 1, "environments": tmp_path, "log": tmp_path / "log.txt"}
    case = Case("tiny-fp32-b2", "tiny", batch=2, prompt=5, new=6, target=1.0)
    workers = [Worker("litseq", "", tmp_path, **places) for _ in range(2)]
    # Nothing but litseq is installed here: the second process plays another system.
    workers[1].system = "ctranslate2"
    expected = workers[0].call("generate", prompts=measure.prompts_of(case), count=6, beams=1)[1]
    measure.reference_file(case, tmp_path).write_text(json.dumps([expected[0], [1, 2, 3, 4, 5, 6]]))
    bandwidths = iter([30e9, 60e9, 35e9])
    found = measure.measure(case, workers, 3, tmp_path, lambda: next(bandwidths))
    assert found.pop("probes") == [30e9, 60e9, 35e9]
    for worker in workers:
        values = found["systems"][worker.name]
        assert values["rows_equal"] == 1
        assert values["tokens_per_second"] > 0
    with pytest.raises(Unavailable, match="AttributeError"):
        workers[1].call("no_such_method")
    workers[0].stop()
    with pytest.raises(Unavailable, match=r"setup\.sh"):
        Worker("llama.cpp", "", tmp_path, **places)

    found |= {"case": case.__dict__, "ratio": 1.25, "best_peer": "ctranslate2", "versions": {"litseq": "1"}}
    found |= {"date": "2026-01-01 10:00", "cpu": "a CPU", "threads": 1}
    found |= {"bandwidth_share": 0.5, "bandwidths": [30e9, 60e9, 35e9]}
    page = render({"cases": {case.name: found}, "command": "python benchmarks/peers"})
    met = "met; 50 % of the memory bandwidth, 30 to 60 GB/s"
    assert f"| tiny-fp32-b2 | **1.25 x** | ctranslate2 | 1.00 x | {met} |" in page
    assert "1 of 1 aims are met" in page
    assert "not measured: llama-fp32-b1" in page


def test_prompts_for_prompt_lookup(peers: None) -> None:
    from scenarios import lookup_prompt
    from shapes import VOCAB, successor

    followed = {successor(token) for token in range(VOCAB)}
    assert len(followed) == VOCAB
    copying, other = (lookup_prompt(256, copying=copying) for copying in (True, False))
    for prompt, copies in ((copying, True), (other, False)):
        token, output = prompt[-1], []
        for _ in range(192):
            token = successor(token)
            output.append(token)
        assert (len(set(output) & set(prompt)) > 180) == copies
        assert len(prompt) == 256


def test_cases_are_chosen_by_the_beginnings_of_their_names(peers: None) -> None:
    from cases import CASES, select

    assert len({case.name for case in CASES}) == len(CASES)
    assert select(None) == CASES
    assert [case.name for case in select(["tiny-fp32-b8", "llama-int4"])] == [
        "llama-int4-b1", "tiny-fp32-b8", "tiny-fp32-b8-beam4",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="no case begins with 'nothing'"):
        select(["nothing"])


def test_made_up_lines(peers: None) -> None:
    from prepare import sentences

    lines = sentences(500)
    assert lines == sentences(500)
    lengths = sorted(len(line.split()) for line in lines)
    assert lengths[0] >= 3
    assert 8 <= lengths[250] <= 14
    assert lengths[-1] <= 60
