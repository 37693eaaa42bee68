"""The helpers of docs/experiments: the recall task, its analysis, and Tiny Shakespeare's configuration."""

import gzip
import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from litseq.cli import train
from litseq.text import Tokenizer

ROOT = Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(
        f"experiments_{name}", ROOT / "benchmarks" / "experiments" / f"{name}.py"
    )
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recall, context, shakespeare, publish = (load(name) for name in ("recall", "context", "shakespeare", "publish"))


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    out = tmp_path_factory.mktemp("recall")
    recall.write(out, {"train": 1500, "val": 40, "test": 60}, 6, 0)
    return out


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def slots(text):
    """The parts of a value: what is left of an answer when its frame is gone."""
    return text.removesuffix(".").removeprefix("You are ").removeprefix("It is ").removeprefix("You ordered ")


def test_an_answer_stands_in_the_turn_that_is_said_and_nowhere_else(talks):
    distances = set()
    for line in lines(talks / "test.jsonl"):
        exchanges = list(zip(line["turns"][::2], line["turns"][1::2], strict=True))
        assert len(line["about"]) == len(exchanges)
        for i, about in enumerate(line["about"]):
            if about is None:
                assert exchanges[i][1] == "OK."
                continue
            value = slots(exchanges[i][1])
            places = [k for k in range(i + 1) if value in exchanges[k][0] or (k < i and value in exchanges[k][1])]
            assert places == [i - about["distance"]]
            distances.add(about["distance"])
    assert distances == {1, 2, 3, 4, 5, 6}


def test_no_value_of_the_test_is_in_training_but_every_part_is(talks):
    def values(name):
        return {slots(a) for line in lines(talks / f"{name}.jsonl") for a in line["turns"][1::2] if a != "OK."}

    train_values, test_values, val_values = values("train"), values("test"), values("val")
    assert not train_values & test_values
    assert not train_values & val_values
    assert not val_values & test_values
    assert {part for v in test_values for part in v.split()} <= {part for v in train_values for part in v.split()}


def test_the_same_seed_gives_the_same_task(talks, tmp_path):
    recall.write(tmp_path, {"test": 60}, 6, 0)
    assert (tmp_path / "test.jsonl").read_bytes() == (talks / "test.jsonl").read_bytes()


def test_perturbations(talks):
    answers = context.read_answers(talks / "test.jsonl")
    assert len(answers) == sum(len(line["turns"]) // 2 for line in lines(talks / "test.jsonl"))
    rng = random.Random(1)
    asked = next(a for a in answers if a.about and a.about["distance"] == 3)
    needed = asked.earlier[asked.told]
    assert slots(asked.answer) in needed[0]
    assert needed not in context.needed_dropped(asked, rng, answers)
    assert needed in context.other_dropped(asked, rng, answers)
    assert sorted(context.shuffled(asked, rng, answers)) == sorted(asked.earlier)
    assert context.shuffled(asked, rng, answers) != asked.earlier
    assert context.all_dropped(asked, rng, answers) == ()
    foreign = context.foreign(asked, rng, [a for a in answers if a.earlier])
    assert len(foreign) == len(asked.earlier)
    assert foreign[0] != asked.earlier[0]
    said = context.messages(asked.earlier, asked.question)
    assert [m["role"] for m in said] == ["user", "assistant"] * len(asked.earlier) + ["user"]


def test_groups_by_hand(talks):
    answers = context.read_answers(talks / "test.jsonl")[:2]
    outputs = {"outputs": [answers[0].answer, "wrong"], "nats": [1.0, 3.0], "tokens": [2, 2]}
    found = context.by(answers, outputs, lambda a: "all")
    assert found["all"]["answers"] == 2
    assert found["all"]["accuracy"] == 0.5
    assert found["all"]["perplexity"] == pytest.approx(2.718281828)


def test_shakespeare_is_split_by_characters_and_its_configuration_fits(tmp_path, monkeypatch):
    text = "".join(chr(97 + i % 26) if i % 7 else "\n" for i in range(4000))
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(text.encode()))
    shakespeare.split(tmp_path / "t.txt.gz", tmp_path)
    parts = [(tmp_path / f"{name}.txt").read_text() for name in ("train", "val")]
    assert "".join(parts) == text
    assert len(parts[0]) == 3600
    monkeypatch.chdir(tmp_path)
    config = ROOT / "configs" / "experiments" / "shakespeare-nanogpt.yaml"
    arguments = ["fit", "-c", str(config), "--data.train=train.txt", "--data.val=val.txt", "--trainer.accelerator=cpu"]
    assert train.run([*arguments, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]) == 0
    (metrics,) = tmp_path.glob("lightning_logs/*/metrics.csv")
    assert "| 2 | " in shakespeare.table(metrics)


def test_a_page_is_prose_then_tables_then_the_report():
    page = publish.page("# Title\n\nProse.\n", "# Report\n\nUse it.\n\n## Quality\n\n| a |\n", "Accuracy:\n")
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Title",
        "## What the experiment asks",
        "## The report of `litseq compare`",
        "### Quality",
    ]
    assert "Use it." in page


def test_curves_and_single_latencies_stay_out_of_the_repository():
    arm = {"seeds": {"1": {"training": {"curve": [1], "tokens": 5}}}, "speed": {"latency": {"ms": [1], "p50_ms": 1}}}
    found = publish.condensed({"arms": {"a": arm}})["arms"]["a"]
    assert found == {"seeds": {"1": {"training": {"tokens": 5}}}, "speed": {"latency": {"p50_ms": 1}}}


def test_the_longest_conversation_finds_no_foreign_history():
    long = context.Answer((("a", "b"), ("c", "d")), "e", "f", None)
    short = context.Answer((("g", "h"),), "i", "j", None)
    assert context.foreign(long, random.Random(0), [long, short]) is None
    assert context.foreign(short, random.Random(0), [long, short]) == (("a", "b"),)


def test_the_small_sets_are_drawn_from_the_pairs_and_one_tokenizer_serves_both(tmp_path, monkeypatch):
    plain_text = load("plain_text")
    monkeypatch.setattr(plain_text, "SIZES", (3, 5))
    (tmp_path / "stories.txt").write_text("once upon a time\nthere was a king\n")
    pairs = [f"word {number}\tWort {number}" for number in range(9)]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs) + "\n")
    plain_text.prepare(tmp_path / "out", str(tmp_path / "stories.txt"), str(tmp_path / "pairs.tsv"), 300)
    small, larger = ((tmp_path / "out" / f"pairs-{size}.tsv").read_text().splitlines() for size in (3, 5))
    assert (len(set(small)), len(set(larger))) == (3, 5)
    assert set(small) < set(larger) < set(pairs)
    tokenizer = Tokenizer.load(tmp_path / "out" / "tokenizer.json")
    for text in ("once upon a king", "Wort 3"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert "<extra_id_99>" in tokenizer.to_json()


def test_the_table_has_a_row_an_arm_and_a_column_a_fine_tuning():
    def scores(values):
        return {name: {"value": value} for name, value in values.items()}

    before = {"tests": {"test": {"scores": {"bits_per_byte": scores({"a": 1.5, "b": 2.5})}}}}
    run = {
        "title": "Fine-tuning, 10 pairs",
        "arms": {"a": {"label": "plain"}, "a-pretrained": {"label": "pre-trained"}, "b": {"label": "other"}},
        "tests": {"test": {"scores": {"bleu": scores({"a": 1.0, "a-pretrained": 2.0})}}},
    }
    run["tests"]["test"]["scores"]["bits_per_byte"] = scores({"a": 3.0, "a-pretrained": 2.0})
    lines = load("plain_text").table(before, [run]).splitlines()
    assert lines[0] == "| | bits per byte of the stories | 10 pairs: BLEU / bits per byte |"
    assert lines[2:] == [
        "| plain | - | 1.0 / 3.000 |",
        "| pre-trained | 1.500 | 2.0 / 2.000 |",
        "| other | - | failed |",
    ]


def test_sentences_that_must_not_be_copied_are_left_out():
    report = "# R\n\n## Quality\n\n| a |\n\n## Examples (test)\n\n- input: secret\n\nMade by `litseq compare`\n"
    results = {"tests": {"test": {"scores": {}, "examples": [{"input": "secret"}]}}}
    kept = publish.without_examples(report, results)
    assert "secret" not in kept + str(results)
    assert "| a |" in kept
    assert kept.endswith("Made by `litseq compare`")
