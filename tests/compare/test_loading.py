"""From a YAML file and a command line to a comparison; the configurations that are shipped."""

import json
import random
from pathlib import Path

import pytest

from compare.small import write_pairs
from litseq.cli.main import main
from litseq.compare.building import build_module
from litseq.compare.loading import build, load
from litseq.compare.planning import make_plans
from litseq.errors import UsageError
from litseq.models.optim import parameter_groups

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("compare-*.yaml"))
MINIMAL = """
arms: {a: {class_path: litseq.models.DecoderOnly}}
data: {init_args: {train: train.tsv, val: val.tsv, test: test.tsv}}
budget: {tokens: 1000}
model: {learning_rate: 1e-3}
"""


def test_command_line_over_file(tmp_path):
    (tmp_path / "c.yaml").write_text(MINIMAL)
    found = load(tmp_path / "c.yaml", ["--budget.tokens=5", "--arms.a.init_args.num_layers", "2", "--seeds=[4, 5]"])
    assert found.budget.tokens == 5
    assert found.arms["a"].init_args == {"num_layers": 2}
    assert found.seeds == [4, 5]
    assert found.model == {"learning_rate": 0.001}
    assert found.data.class_path == "litseq.data.PairDataModule"


def test_a_number_of_tokens_may_be_written_short(tmp_path):
    (tmp_path / "c.yaml").write_text(MINIMAL)
    assert load(tmp_path / "c.yaml", ["--budget.tokens=5e6"]).budget.tokens == 5_000_000


def test_an_optimizer_stays_what_was_written(tmp_path):
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.5}}
    (tmp_path / "c.yaml").write_text(MINIMAL)
    found = load(tmp_path / "c.yaml", [f"--model.optimizer={json.dumps(optimizer)}"])
    assert found.model["optimizer"] == optimizer
    module = build_module(found.arms["a"].class_path, {"vocab_size": 9} | found.model)
    assert module._optimizer_factory(parameter_groups(module)).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("arms: [", [], "is no YAML"),
        ("- 1", [], "holds no comparison"),
        ("arms: {}", [], "data is missing"),
        (MINIMAL + "budjet: 3", [], "no setting budjet"),
        (MINIMAL, ["--budget.token=3"], "budget.*token"),
        (MINIMAL, ["--budget=3"], "budget is 3, expected settings by name, such as {tokens: 5000000}"),
        (MINIMAL, ["--budget.tokens=1.5"], r"budget.tokens: Expected a <class 'int'>. Got value: 1.5$"),
        (MINIMAL, ["--speed=fast"], "speed is 'fast', expected settings by name"),
        (MINIMAL, ["--seeds=many"], "seeds"),
        (MINIMAL, ["--model=3"], "model is 3, expected settings by name"),
        (MINIMAL, ["--arms.a.labl=x"], "arm a has labl"),
        (MINIMAL, ["--out"], "--out is not understood"),
        (MINIMAL, ["out=3"], "out=3 is not understood"),
        (MINIMAL, ["--out.x=3", "--title.y=3"], "out"),
    ],
)
def test_refused_in_one_line(tmp_path, text, overrides, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as found:
        load(tmp_path / "c.yaml", overrides)
    assert "\n" not in str(found.value)


def test_no_file_is_one_line():
    with pytest.raises(UsageError, match=r"nowhere\.yaml cannot be read: No such file"):
        load(Path("nowhere.yaml"))


def write_everything(directory):
    """Each kind of data under each name that a configuration could ask for."""
    write_pairs(directory)
    rng = random.Random(0)
    turns = [{"turns": [f"{rng.random()}", "yes"]} for _ in range(9)]
    for name in ("train", "val", "test"):
        (directory / f"{name}.txt").write_text("a line of text\n" * 9)
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_match_their_arms(config, tmp_path):
    write_everything(tmp_path)
    comparison = load(config)
    kind = {"Pair": "tsv", "Text": "txt", "Conversation": "jsonl"}[
        comparison.data.class_path.rpartition(".")[2].removesuffix("DataModule")
    ]
    comparison.data.init_args |= {name: str(tmp_path / f"{name}.{kind}") for name in ("train", "val")}
    comparison.tests = {"test": str(tmp_path / f"test.{kind}")}
    # Files of an experiment that comes before this one.
    comparison.data.init_args.pop("tokenizer", None)
    for arm in comparison.arms.values():
        arm.start_from = None
    arms, plans = make_plans(comparison, tmp_path / "out")
    assert len(plans) == len(comparison.arms) * len(comparison.seeds)
    if comparison.match == "parameters":
        sizes = [arm.size.parameters for arm in arms]
        reference = next(a.size.parameters for a in arms if a.name == comparison.reference_arm)
        assert all(abs(size / reference - 1) <= comparison.tolerance for size in sizes)


def test_the_help_lists_every_setting(capsys):
    assert main(["compare", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        setting in text for setting in ("--config", "--force", "--budget.tokens", "--bleu_tokenizers", "--seeds")
    )


def test_a_setting_left_empty_has_its_default():
    arms = {"a": {"class_path": "litseq.models.DecoderOnly"}}
    empty = {
        "title": None,
        "match": None,
        "out": None,
        "speed": {"repeats": None},
        "budget": {"tokens": 5, "minutes": None},
    }
    found = build({"arms": arms, "data": {"init_args": {}}} | empty)
    assert (found.title, found.match, found.out) == ("Which architecture?", "parameters", "runs/compare")
    assert (found.speed.repeats, found.budget.tokens, found.budget.minutes) == (5, 5, None)


def test_a_label_is_a_text():
    arms = {"a": {"class_path": "litseq.models.DecoderOnly", "label": 2024}}
    with pytest.raises(UsageError, match="arm a: label is 2024, expected a text"):
        build({"arms": arms, "data": {}})
