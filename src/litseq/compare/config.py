"""What is compared: the arms, the data they share, how they are matched and for how long they train."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from sacrebleu.metrics import BLEU

from litseq.compare.scoring import LOWER_CASED
from litseq.errors import UsageError

Match = Literal["parameters", "compute", "none"]
METRICS = ("bleu", "chrf", "exact_match", "bits_per_byte", "perplexity")
Weights = Literal["best", "last", "average"]

_NAME = "letters, digits, -, _ and ."


@dataclass
class Arm:
    """One of the things compared: an architecture, an objective, a size.

    Args:
        class_path: The module, such as litseq.models.DecoderOnly or a subclass of yours.
        init_args: Its arguments, on top of those that all arms share.
        data: Arguments of the data module for this arm, on top of the shared ones, such as `objective` or `history`.
        label: What the report calls it; the name of the arm when it is not given.
        start_from: A checkpoint whose weights the training starts with (`litseq.callbacks.StartFrom`). The data's
            `tokenizer` must be its.
    """

    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    start_from: str | None = None


@dataclass
class Data:
    """The data module that all arms read.

    Args:
        class_path: Such as litseq.data.PairDataModule.
        init_args: Its arguments; `train`, `val` or `val_fraction`, and `test` where `tests` is not given.
    """

    class_path: str = "litseq.data.PairDataModule"
    init_args: dict[str, Any] = field(default_factory=dict)


@dataclass
class Budget:
    """How long each arm trains; one of the two.

    Args:
        tokens: Tokens that the model reads in training, padding not counted, source and target together.
        minutes: Minutes of wall-clock time, validation included.
    """

    tokens: int | None = None
    minutes: float | None = None


@dataclass
class Speed:
    """What is timed on the exported bundles.

    Args:
        batches: Batch sizes.
        lengths: Tokens that each row generates.
        repeats: How often; the arms take turns, and medians are reported.
        threads: Threads of onnxruntime. None: one a core.
        sentences: Test inputs that are answered one by one, for the latency.
    """

    batches: list[int] = field(default_factory=lambda: [1, 8, 32])
    lengths: list[int] = field(default_factory=lambda: [16, 64])
    repeats: int = 5
    threads: int | None = None
    sentences: int = 60


@dataclass
class Comparison:
    """One experiment.

    Args:
        arms: The arms by name.
        data: The data.
        out: The directory of runs and report. A second call with the same configuration goes on where the first stopped.
        title: Headline of the report.
        model: Arguments that the modules of all arms share.
        tests: Test sets by name, each given as `test` of the data module is; the first one decides. None: `test`.
        match: `parameters`: the depth, the feed-forward and if need be the width of the other arms are changed until
            they have the parameters of `reference`, to within `tolerance`. `compute`: arms keep their sizes, and train
            on as many tokens as cost what the reference costs. `none`: as given.
        reference: The arm that the others are matched with and compared to. None: the first.
        tolerance: The largest difference of matched parameters, as a share.
        seeds: Each arm is trained once with each; the seed is that of the weights, of dropout and of the order of data.
        budget: How long each arm trains.
        validations: How often validation runs, and a checkpoint to resume from is written, in a training.
        weights: Which are exported: the `best` by validation loss, the `last`, or the `average` of the last ones.
        average_last: How many checkpoints the average is of.
        generation: Options of generation for the test sets, such as num_beams and max_new_tokens.
        bleu_tokenizers: sacreBLEU's tokenizers, the first one decides; `none` for texts that are tokenised already;
            `-lc` behind one lower-cases both sides, as `13a-lc`.
        metric: Which decides: bleu, chrf, exact_match, bits_per_byte or perplexity. None: bleu for pairs
            (chrf where no reference has four words), else bits_per_byte.
        margin: The difference of the main metric below which arms count as equal, fixed before the experiment: BLEU
            points for pairs, percent for bits per byte.
        resamples: Bootstrap resamples.
        speed: What is timed.
        jobs: Runs at the same time, each with its share of the cores. Small models train faster that way, and all need
            their memory at once; a time budget then counts minutes on such a share.
        trainer: Further arguments of the Trainer, such as precision or accelerator.
    """

    arms: dict[str, Arm]
    data: Data
    out: str = "runs/compare"
    title: str = "Which architecture?"
    model: dict[str, Any] = field(default_factory=dict)
    tests: dict[str, Any] | None = None
    match: Match = "parameters"
    reference: str | None = None
    tolerance: float = 0.02
    seeds: list[int] = field(default_factory=lambda: [1])
    budget: Budget = field(default_factory=Budget)
    validations: int = 20
    weights: Weights = "best"
    average_last: int = 5
    generation: dict[str, Any] = field(default_factory=dict)
    bleu_tokenizers: list[str] = field(default_factory=lambda: ["13a"])
    metric: str | None = None
    margin: float = 1.0
    resamples: int = 1000
    speed: Speed = field(default_factory=Speed)
    jobs: int = 1
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def reference_arm(self) -> str:
        """The arm that the others are matched with and compared to."""
        return self.reference or next(iter(self.arms))

    @property
    def test_sets(self) -> dict[str, Any]:
        """The files of each test set by name."""
        return self.tests or {"test": self.data.init_args["test"]}


def check(comparison: Comparison) -> None:
    """Refuse what cannot be run, all problems in one line.

    Raises:
        UsageError: with every problem found.
    """
    problems = []
    budget = comparison.budget
    if not comparison.arms:
        problems.append("arms is empty, expected at least one")
    for name in comparison.arms:
        if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
            problems.append(f"the arm {name!r} becomes a directory, expected {_NAME} in its name")
    if comparison.reference not in (None, *comparison.arms):
        problems.append(f"reference is {comparison.reference!r}, expected one of {', '.join(comparison.arms)}")
    if (budget.tokens is None) == (budget.minutes is None):
        problems.append("budget has tokens and minutes, or neither: give one of them")
    if any(value is not None and not 0 < value < math.inf for value in (budget.tokens, budget.minutes)):
        problems.append("budget is not above 0, or has no end")
    if not 0 <= comparison.margin < math.inf:
        problems.append(f"margin is {comparison.margin}, expected 0 or more")
    for name, files in (comparison.tests or {}).items():
        if not isinstance(files, str | list | dict | None):
            problems.append(f"tests: {name} is {files!r}, expected a file or several")
    if comparison.match == "compute" and budget.tokens is None:
        problems.append("match: compute gives every arm its own number of tokens, so it needs budget.tokens")
    if not comparison.seeds or len(set(comparison.seeds)) != len(comparison.seeds):
        problems.append(f"seeds are {comparison.seeds}, expected at least one and none twice")
    if any(not 0 <= seed < 2**32 for seed in comparison.seeds):
        problems.append(f"seeds are {comparison.seeds}, expected numbers from 0 to 4294967295")
    if not 0 < comparison.tolerance < 1:
        problems.append(f"tolerance is {comparison.tolerance}, expected a share such as 0.02")
    for name in ("validations", "average_last", "resamples", "jobs"):
        if getattr(comparison, name) < 1:
            problems.append(f"{name} is {getattr(comparison, name)}, expected at least 1")
    speed = comparison.speed
    for name in ("batches", "lengths"):
        if not getattr(speed, name) or min(getattr(speed, name)) < 1:
            problems.append(f"speed.{name} is {getattr(speed, name)}, expected numbers of at least 1")
    for name in ("repeats", "threads", "sentences"):
        if getattr(speed, name) is not None and getattr(speed, name) < 1:
            problems.append(f"speed.{name} is {getattr(speed, name)}, expected at least 1")
    if comparison.metric not in (None, *METRICS):
        problems.append(f"metric is {comparison.metric!r}, expected one of {', '.join(METRICS)}")
    if not comparison.bleu_tokenizers:
        problems.append("bleu_tokenizers is empty, expected at least one, such as 13a")
    for name in comparison.bleu_tokenizers:
        if name.removesuffix(LOWER_CASED) not in BLEU.TOKENIZERS:
            problems.append(f"bleu_tokenizers has {name!r}, expected of {', '.join(BLEU.TOKENIZERS)}")
    if not comparison.tests and comparison.data.init_args.get("test") is None:
        problems.append("there is nothing to test on: give tests, or test of the data")
    if comparison.data.init_args.get("val") is None and not comparison.data.init_args.get("val_fraction"):
        problems.append("there is no validation data: give val, or val_fraction, of the data")
    if problems:
        raise UsageError("; ".join(problems))
