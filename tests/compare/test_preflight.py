"""What is refused before anything is trained, each in one line that names the place."""

import pytest

from compare.small import small, write_pairs
from litseq.compare.config import Arm, Budget, Data, Speed
from litseq.compare.planning import lay_out, make_plans
from litseq.compare.run import run_comparison
from litseq.errors import CheckpointError, DataError, UsageError
from litseq.models import DecoderOnly


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tests": {"test": "nowhere.tsv"}}, DataError, r"nowhere\.tsv: cannot be read"),
        ({"generation": {"num_beam": 3}}, UsageError, "did you mean num_beams"),
        ({"trainer": {"acelerator": "cpu"}}, UsageError, "no argument acelerator"),
        ({"trainer": {"max_steps": 3}}, UsageError, "max_steps is decided by the comparison"),
        ({"trainer": {"fast_dev_run": True}}, UsageError, "fast_dev_run is decided by the comparison"),
        ({"trainer": {"limit_val_batches": 0}}, UsageError, "limit_val_batches is 0, expected at least one batch"),
        ({"trainer": {"precision": "bf17"}}, UsageError, "trainer: Precision 'bf17' is invalid"),
        ({"trainer": {"accumulate_grad_batches": 0}}, UsageError, "accumulate_grad_batches is 0"),
        (
            {"arms": {"a": Arm("litseq.models.DecoderOnly", {}, {"train": "absent.tsv"})}},
            DataError,
            r"absent\.tsv: cannot be read",
        ),
        (
            {"arms": {"a": Arm("litseq.models.DecoderOnly", {}, {"val": "absent.tsv"})}},
            DataError,
            r"absent\.tsv: cannot",
        ),
        ({"bleu_tokenizers": ["13b"]}, UsageError, "bleu_tokenizers has '13b'"),
        ({"bleu_tokenizers": ["13a", "ja-mecab"]}, UsageError, r"bleu_tokenizers: .*pip install sacrebleu\[ja\]"),
        (
            {"generation": {"num_beams": 2, "num_return_sequences": 2}},
            UsageError,
            "num_return_sequences is 2, expected 1",
        ),
        ({"tests": {"test": None}}, UsageError, "tests: test names no file"),
        ({"speed": Speed(batches=[])}, UsageError, r"speed.batches is \[\]"),
        ({"speed": Speed(sentences=0)}, UsageError, "speed.sentences is 0"),
        ({"tests": {"test": 3}}, UsageError, "tests: test is 3, expected a file"),
        ({"budget": Budget(minutes=float("nan"))}, UsageError, "budget is not above 0, or has no end"),
        ({"margin": -1.0}, UsageError, "margin is -1.0, expected 0 or more"),
        ({"out": "/dev/null/out"}, UsageError, "cannot be made"),
        ({"budget": Budget()}, UsageError, "budget has tokens and minutes, or neither"),
        ({"seeds": [-1]}, UsageError, "numbers from 0"),
        ({"seeds": [1, 1]}, UsageError, "none twice"),
        ({"arms": {"a": Arm("litseq.models.Nothing")}}, UsageError, "arm a: .*Nothing"),
        ({"arms": {"a": Arm("litseq.models.DecoderOnly", {"num_layer": 3})}}, UsageError, "arm a: .*num_layer"),
        ({"arms": {"a": Arm("litseq.models.DecoderOnly", {}, {"histery": 3})}}, UsageError, "arm a: .*histery"),
        (
            {"arms": {"a": Arm("litseq.models.DecoderOnly", start_from="none.ckpt")}},
            CheckpointError,
            r"none\.ckpt does not exist",
        ),
    ],
)
def test_refused_at_once(tmp_path, changes, error, message):
    write_pairs(tmp_path)
    with pytest.raises(error, match=message) as found:
        run_comparison(small(tmp_path, **changes))
    assert "\n" not in str(found.value)
    assert not list(tmp_path.glob("out/runs/*/*/log.txt"))


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path):
    write_pairs(tmp_path)
    comparison = small(tmp_path)
    comparison.data.init_args["vocab_size"] = 3
    with pytest.raises(UsageError, match="data: vocab_size 3 is too small"):
        run_comparison(comparison)


def test_what_is_refused_costs_no_runs(tmp_path):
    write_pairs(tmp_path)
    made = tmp_path / "out" / "runs" / "causal" / "seed-1" / "result.json"
    made.parent.mkdir(parents=True)
    made.touch()
    (tmp_path / "out" / "comparison.json").write_text("{}")
    with pytest.raises(DataError, match="nowhere"):
        run_comparison(small(tmp_path, tests={"test": "nowhere.tsv"}), force=True)
    assert made.is_file()
    assert (tmp_path / "out" / "comparison.json").read_text() == "{}"


def test_arms_that_cannot_be_matched_cost_no_runs(tmp_path):
    write_pairs(tmp_path)
    out = tmp_path / "out"
    made = out / "runs" / "causal" / "seed-1" / "result.json"
    made.parent.mkdir(parents=True)
    made.touch()
    for name in ("comparison.json", "tokenizer.json"):
        (out / name).write_text("{}")
    with pytest.raises(UsageError, match="no size within"):
        run_comparison(small(tmp_path, tolerance=1e-9), force=True)
    assert made.is_file()
    assert {path.name: path.read_text() for path in out.glob("*.json")} == {
        "comparison.json": "{}",
        "tokenizer.json": "{}",
    }
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_an_empty_test_set_is_refused(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "test.tsv").write_text("")
    with pytest.raises(DataError, match=r"test\.tsv"):
        run_comparison(small(tmp_path))


def test_a_metric_that_plain_text_has_not_is_refused(tmp_path):
    (tmp_path / "t.txt").write_text("a line of text\n" * 9)
    data = Data("litseq.data.TextDataModule", {"train": str(tmp_path / "t.txt"), "val": str(tmp_path / "t.txt")})
    with pytest.raises(UsageError, match="plain text has no one right output"):
        run_comparison(small(tmp_path, data=data, tests={"test": str(tmp_path / "t.txt")}, metric="bleu"))


def test_bleu_of_outputs_that_are_too_short_for_it_is_refused(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "test.tsv").write_text("one two\ttwo one\none\tone\n")
    with pytest.raises(UsageError, match="no reference of the test set has four words"):
        run_comparison(small(tmp_path, metric="bleu"))


def test_a_tokenizer_of_other_data_is_not_taken(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "out").mkdir()
    comparison = small(tmp_path, tolerance=1e-9)
    with pytest.raises(UsageError, match="no size within"):
        make_plans(comparison, tmp_path / "out")  # behind the training of the tokenizer
    comparison = small(tmp_path)
    comparison.data.init_args["vocab_size"] = 40
    _, plans = make_plans(comparison, tmp_path / "out")
    assert plans[0]["init_args"]["vocab_size"] == 40
    lay_out(plans, tmp_path / "out")
    before = (tmp_path / "out" / "tokenizer.json").read_bytes()
    comparison.data.init_args["vocab_size"] = 50  # but that of the runs that are there stays
    make_plans(comparison, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == before


def test_a_budget_in_tokens_needs_an_end_of_the_data(tmp_path):
    write_pairs(tmp_path)
    comparison = small(tmp_path)
    comparison.data.init_args["train"] = {"dataset": "csv", "data_files": "train.csv", "streaming": True}
    with pytest.raises(UsageError, match=r"cannot be known of a stream; give budget\.minutes"):
        run_comparison(comparison)


class Own(DecoderOnly):
    """A user's, with arguments of its own and none of its parent's."""

    def __init__(self, vocab_size: int, depth: int = 1):
        super().__init__(vocab_size=vocab_size, embed_dim=16, num_heads=2, num_layers=depth, max_seq_len=48)


def test_a_subclass_need_not_take_its_parents_arguments(tmp_path):
    write_pairs(tmp_path)
    arms = {f"depth-{n}": Arm(f"{__name__}.Own", {"depth": n}) for n in (1, 2)}
    arms, plans = make_plans(small(tmp_path, arms=arms, model={}, match="none"), tmp_path / "out")
    assert arms[0].size.parameters < arms[1].size.parameters
    assert plans[0]["max_length"] == 48


def test_runs_of_a_file_that_was_changed_since_are_refused(tmp_path):
    write_pairs(tmp_path)
    out = tmp_path / "out"
    _, plans = make_plans(small(tmp_path), out)
    lay_out(plans, out)
    lay_out(make_plans(small(tmp_path), out)[1], out)
    (tmp_path / "test.tsv").write_text("one two three\tthree two one\n")
    with pytest.raises(UsageError, match=r"another configuration \(\S*test\.tsv changed\)"):
        lay_out(make_plans(small(tmp_path, seeds=[1, 2]), out)[1], out)
