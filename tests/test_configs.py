"""Every shipped configuration is parsed by the real command line and runs."""

import json
from pathlib import Path

import pytest
import yaml

from litseq.cli import train

CONFIGS = sorted(
    path for path in (Path(__file__).parents[1] / "configs").glob("*.yaml") if not path.stem.startswith("compare-")
)
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    lines = [" ".join(WORDS[(i + k) % 10] for k in range(2 + i % 5)) for i in range(60)]
    (directory / "train.txt").write_text("\n".join(lines) + "\n")
    pairs = [f"{line}\t{' '.join(reversed(line.split()))}" for line in lines]
    (directory / "train.tsv").write_text("\n".join(pairs) + "\n")
    talks = [json.dumps({"turns": [line, "yes", line, line]}) for line in lines]
    (directory / "train.jsonl").write_text("\n".join(talks) + "\n")
    return directory


def test_there_is_one_for_every_way_to_train():
    assert [path.stem for path in CONFIGS] == [
        "conversation-decoder-only",
        "conversation-encoder-decoder",
        "text-decoder-only",
        "text-encoder-decoder",
        "text-span-corruption",
        "translation-decoder-only",
        "translation-encoder-decoder",
        "translation-prefix-lm",
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_fits(path, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(path.read_text())
    data = files / config["data"]["init_args"]["train"]
    arguments = [
        *("fit", "-c", str(path), f"--data.train={data}", f"--data.val={data}", "--data.vocab_size=160"),
        *("--data.max_tokens=256", "--model.embed_dim=16", "--model.num_layers=1", "--trainer.fast_dev_run=2"),
        "--trainer.accelerator=cpu",
    ]
    assert train.run(arguments) == 0


def test_every_config_names_its_command():
    for path in CONFIGS:
        assert f"litseq fit -c configs/{path.name} --data.train" in path.read_text()
