"""From a comparison to its runs: sizes matched, one tokenizer for all, budgets in tokens; all a run needs, written down."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litseq.compare.building import build_data, weightless
from litseq.compare.config import Comparison
from litseq.compare.files import PLAN, read_json, write_json
from litseq.compare.sizes import Size, count_parameters, match_parameters
from litseq.compare.train import flops_per_token, prepare
from litseq.data.lines import file_facts
from litseq.data.sources import flat_paths
from litseq.errors import UsageError

RUNS, TOKENIZER = "runs", "tokenizer.json"


@dataclass(frozen=True)
class ArmPlan:
    """An arm as it is going to run."""

    name: str
    label: str
    class_path: str
    size: Size
    tokens: int | None
    data: dict[str, Any]


def run_directory(out: Path, arm: str, seed: int) -> Path:
    """Where an arm and a seed live."""
    return out / RUNS / arm / f"seed-{seed}"


def make_plans(comparison: Comparison, out: Path) -> tuple[list[ArmPlan], list[dict[str, Any]]]:
    """The arms, and the plans of all runs, seeds outermost: after the first seed there is one result of each arm.

    Raises:
        UsageError: Something cannot be run, or cannot be matched.
    """
    data_args, vocab_size = _with_tokenizer(comparison, out)
    sizes = _sizes(comparison, vocab_size)
    lengths = [weightless(comparison.arms[n].class_path, s.init_args).hparams["max_seq_len"] for n, s in sizes.items()]
    budgets = _budgets(comparison, sizes, data_args)
    arms = [
        ArmPlan(name, arm.label or name, arm.class_path, sizes[name], budgets[name], data_args | arm.data)
        for name, arm in comparison.arms.items()
    ]
    shared = {
        "weights": comparison.weights,
        "average_last": comparison.average_last,
        "validations": comparison.validations,
        "generation": comparison.generation,
        "tests": comparison.test_sets,
        "max_length": min(lengths),
        "threads": comparison.speed.threads,
        "trainer": comparison.trainer,
        "keep_checkpoints": False,
    }
    files = {arm.name: _files(comparison, arm.data) for arm in arms}
    plans = []
    for seed in comparison.seeds:
        for arm in arms:
            # Every seed its own order; but not its own validation set, where that is cut by the same seed.
            order = {} if arm.data.get("val_fraction") else {"seed": seed}
            start_from = comparison.arms[arm.name].start_from
            plans.append(
                shared
                | {
                    "arm": arm.name,
                    "seed": seed,
                    "class_path": arm.class_path,
                    "init_args": arm.size.init_args,
                    "parameters": arm.size.parameters,
                    "data": {"class_path": comparison.data.class_path, "init_args": arm.data | order},
                    "files": files[arm.name],
                    "budget": {"tokens": arm.tokens, "minutes": comparison.budget.minutes},
                }
                | ({} if start_from is None else {"start_from": str(Path(start_from).resolve())})
            )
    return arms, plans


def lay_out(plans: list[dict[str, Any]], out: Path) -> None:
    """Write every run's plan into its directory.

    Raises:
        UsageError: A run lies there that was made by another plan.
    """
    for plan in plans:
        directory = run_directory(out, plan["arm"], plan["seed"])
        found = read_json(directory / PLAN)
        plan = json.loads(json.dumps(plan))  # as it reads when it comes back
        if found is not None and "files" not in found:  # of a version that did not note them
            found["files"] = plan["files"]
        if found is not None and found != plan:
            changed = sorted(name for name in {*found, *plan} if found.get(name) != plan.get(name))
            if "files" in changed:
                changed.remove("files")
                changed += [path for path in plan["files"] if found["files"].get(path) != plan["files"][path]]
            raise UsageError(
                f"{directory} holds a run of another configuration ({', '.join(changed)} changed); choose another out, or"
                " throw the old runs away with --force"
            )
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / PLAN, plan)


def _files(comparison: Comparison, data_args: dict[str, Any]) -> dict[str, str]:
    """The hash of each file that an arm reads: runs of other contents under the same name cannot be compared."""
    named = [data_args.get("train"), data_args.get("val"), *comparison.test_sets.values()]
    return {path: file_facts(path)["sha256"] for paths in named for path in flat_paths(paths)}


def _with_tokenizer(comparison: Comparison, out: Path) -> tuple[dict[str, Any], int]:
    """The data's arguments with a tokenizer file in them, trained once and for all arms."""
    args = dict(comparison.data.init_args)
    args.pop("test", None)
    file = out / TOKENIZER
    if args.get("tokenizer") is None:
        # Before the first run is laid out it belongs to nothing: the data may have been changed since it was made.
        if not file.is_file() or not (out / RUNS).is_dir():
            out.mkdir(parents=True, exist_ok=True)
            # The arms' own options can matter here: span corruption wants sentinel tokens.
            needs = next((arm.data for arm in comparison.arms.values() if "objective" in arm.data), {})
            try:
                build_data(comparison.data.class_path, args | needs).tokenizer.save(file)
            except ValueError as error:  # of a vocabulary that is too small
                raise UsageError(f"data: {error}") from error
        args["tokenizer"] = str(file.resolve())
    return args, build_data(comparison.data.class_path, args).vocab_size


def _sizes(comparison: Comparison, vocab_size: int) -> dict[str, Size]:
    given = {
        name: {"vocab_size": vocab_size} | comparison.model | arm.init_args for name, arm in comparison.arms.items()
    }
    reference = comparison.reference_arm
    sizes = {}
    for name, arm in comparison.arms.items():
        where = f"arm {name}"
        if comparison.match == "parameters" and name != reference:
            target = count_parameters(comparison.arms[reference].class_path, given[reference], f"arm {reference}")
            sizes[name] = match_parameters(arm.class_path, given[name], target, comparison.tolerance, where)
        else:
            sizes[name] = Size(given[name], count_parameters(arm.class_path, given[name], where), "")
    return sizes


def _budgets(comparison: Comparison, sizes: dict[str, Size], data_args: dict[str, Any]) -> dict[str, int | None]:
    tokens = comparison.budget.tokens
    if comparison.match != "compute" or tokens is None:
        return dict.fromkeys(comparison.arms, tokens)
    prices = {}
    for name, arm in comparison.arms.items():
        module = weightless(arm.class_path, sizes[name].init_args)
        data = build_data(comparison.data.class_path, data_args | arm.data)
        prepare(module, data)
        prices[name] = flops_per_token(module, data)
    reference = prices[comparison.reference_arm]
    return {name: max(1, round(tokens * reference / price)) for name, price in prices.items()}
