"""What the numbers allow to say, in plain words: which arm, by how much, how sure, and what was not tested.

The rules, in order. An arm leads when it scores best on the first test set. It is *ahead* of another one when the 95 %
interval of their difference over sentences excludes zero; how sure that is depends on the seeds:

- high: three seeds or more, and Student's 95 % interval of the difference over seeds excludes zero as well;
- moderate: two seeds or more, and the sign is the same with each of them;
- low: one seed, or seeds that disagree: another training of the same arms may turn it round.

Arms are *equal* when the intervals, and each of two seeds, lie within the margin that was fixed before, and *undecided*
otherwise. Among arms that the leader is not ahead of, the fastest to answer is named too, unless they are about as fast.

Where the best score is below five margins (5 BLEU, with the margin of 1), nothing was learned that could be compared: any
two scores near zero are within a margin, and the order of untrained models means nothing. The same where there are fewer than
20 test sentences (of conversations: 20 conversations): resampling so few says little of others, of a single one nothing at all.
"""

from typing import Any

from litseq.compare.tables import budget, drawn

AHEAD, EQUAL, UNDECIDED = "ahead", "equal", "undecided"
_LEARNED = 5
_FEWEST = 20
"""Test sentences, or conversations, from which something is said."""
_LIKELIHOODS = ("bits_per_byte", "perplexity")
"""Metrics with a margin in percent of the score."""


def recommend(results: dict[str, Any]) -> dict[str, Any]:
    """The recommendation of finished results.

    Returns:
        `headline`, `confidence` (high, moderate, low, none), `sentences` that explain it, and `caveats`.
    """
    test_name, test = next(iter(results["tests"].items()))
    metric = results["main_metric"]
    scores = test["scores"][metric]
    higher = results["metrics"][metric]["higher_is_better"]
    means = _of_shared_seeds(scores)
    beaten = _beaten(test["differences"][metric], 1 if higher else -1)
    ranked = sorted(scores, key=lambda arm: (-beaten.get(arm, 0), -means[arm] if higher else means[arm]))
    caveats = _caveats(results, test_name)
    if len(ranked) < 2:
        only = _label(results, ranked[0])
        return {
            "headline": f"Only {only} was measured, so there is nothing to compare it with.",
            "confidence": "none",
            "sentences": [],
            "verdicts": {},
            "caveats": caveats,
        }
    leader = ranked[0]
    verdicts = {arm: verdict(results, test, leader, arm) for arm in ranked[1:]}
    best, label = float(scores[leader]["value"]), results["metrics"][metric]["label"]
    resampled = test["resampled"]
    if metric not in _LIKELIHOODS and best < _LEARNED * results["configuration"]["margin"]:
        void = f"Too little was learned to compare anything: the best score is {best:.2f} {label}. Train longer."
    elif resampled["count"] < _FEWEST:
        void = (
            f"Too little was tested to compare anything: {resampled['count']} of the {_FEWEST} test {resampled['unit']} that"
            " it takes at least."
        )
    else:
        void = ""
    return {
        **({"headline": void, "confidence": "none"} if void else _headline(results, leader, verdicts)),
        "leader": leader,
        "verdicts": verdicts,
        "sentences": [_sentence(results, leader, arm, verdicts[arm]) for arm in verdicts if not void]
        + _costs(results, leader, verdicts),
        "caveats": caveats,
    }


def _of_shared_seeds(scores: dict[str, Any]) -> dict[str, float]:
    """The scores to rank by: where a run failed, the seeds that are left may be the luckier ones."""
    shared = set.intersection(*(set(score["by_seed"]) for score in scores.values()))
    if not shared:
        return {arm: float(score["value"]) for arm, score in scores.items()}
    return {arm: sum(score["by_seed"][seed] for seed in shared) / len(shared) for arm, score in scores.items()}


def _beaten(differences: list[dict[str, Any]], sign: int) -> dict[str, int]:
    """How many others each arm scores better than, by the seeds that the two share.

    Seeds that all arms share would not do alone: where a third arm has lost some, they are few.
    """
    beaten: dict[str, int] = {}
    for found in differences:
        gain = sign * found["difference"]["value"] if found["seeds"] else 0
        if gain:
            winner = found["arm"] if gain > 0 else found["against"]
            beaten[winner] = beaten.get(winner, 0) + 1
    return beaten


def verdict(results: dict[str, Any], test: dict[str, Any], leader: str, other: str) -> dict[str, Any]:
    """How the leader stands to another arm: `kind`, `confidence`, and the difference as gained by the leader."""
    metric = results["main_metric"]
    found = next(d for d in test["differences"][metric] if {d["arm"], d["against"]} == {leader, other})
    if not found["seeds"]:
        return {"kind": UNDECIDED, "confidence": "none", "seeds": 0}
    sign = 1 if (found["arm"] == leader) == results["metrics"][metric]["higher_is_better"] else -1
    gain = _signed(found["difference"], sign)
    by_seed = [sign * value for value in found["by_seed"]]
    over_seeds = None if found["seed_interval"] is None else _signed(found["seed_interval"], sign)
    margin = _margin(results, test, leader)
    common = {"seeds": found["seeds"], "gain": gain, "by_seed": by_seed, "p_value": found["p_value"], "margin": margin}
    if gain["low"] > 0:
        if over_seeds is not None and over_seeds["low"] > 0:
            confidence = "high"
        elif len(by_seed) >= 2 and min(by_seed) > 0:
            confidence = "moderate"
        else:
            confidence = "low"
        return {"kind": AHEAD, "confidence": confidence, "negligible": gain["high"] <= margin} | common
    # Of two seeds there is no interval, and two that differ widely can have a mean of nothing.
    spread = over_seeds or {"low": min(by_seed), "high": max(by_seed)}
    if all(-margin <= bound["low"] and bound["high"] <= margin for bound in (gain, spread)):
        confidence = "high" if over_seeds is not None else "moderate" if len(by_seed) >= 2 else "low"
        return {"kind": EQUAL, "confidence": confidence} | common
    return {"kind": UNDECIDED, "confidence": "none"} | common


def _signed(interval: dict[str, float], sign: int) -> dict[str, float]:
    low, high = sorted((sign * interval["low"], sign * interval["high"]))
    return {"value": sign * interval["value"], "low": low, "high": high}


def _margin(results: dict[str, Any], test: dict[str, Any], leader: str) -> float:
    margin: float = results["configuration"]["margin"]
    metric = results["main_metric"]
    if metric in _LIKELIHOODS:
        return margin / 100 * float(test["scores"][metric][leader]["value"])
    return margin


def _label(results: dict[str, Any], arm: str) -> str:
    label: str = results["arms"][arm]["label"]
    return label


def _headline(results: dict[str, Any], leader: str, verdicts: dict[str, dict[str, Any]]) -> dict[str, str]:
    name = _label(results, leader)
    order = ("none", "low", "moderate", "high")
    kinds = {found["kind"] for found in verdicts.values()}
    sure = min((found["confidence"] for found in verdicts.values()), key=order.index)
    if kinds == {AHEAD}:
        if sure == "low":
            text = f"{name} came out ahead in this experiment, but one more training could turn it round."
        else:
            text = f"Use {name}: it is ahead of every other arm."
        return {"headline": text, "confidence": sure}
    near = [arm for arm, found in verdicts.items() if found["kind"] != AHEAD]
    pool = [leader, *near]
    names = (
        " and ".join(_label(results, arm) for arm in pool)
        if len(pool) < 3
        else ", ".join(_label(results, a) for a in pool)
    )
    if all(verdicts[arm]["kind"] == EQUAL for arm in near):
        fast = _fastest(results, pool)
        text = f"{names} are equally good within the margin"
        if fast is not None and _as_fast(results, pool):
            text += " and answer about as fast: use any of them."
        else:
            text += f"; {_label(results, fast)} answers fastest, so use that." if fast else "."
        return {"headline": text, "confidence": min((verdicts[arm]["confidence"] for arm in near), key=order.index)}
    return {"headline": f"No winner: this experiment cannot tell {names} apart.", "confidence": "none"}


def _sentence(results: dict[str, Any], leader: str, arm: str, found: dict[str, Any]) -> str:
    name, other = _label(results, leader), _label(results, arm)
    if not found["seeds"]:
        return f"{name} and {other} have no seed in common, so they were not compared."
    about = results["metrics"][results["main_metric"]]
    label, digits = about["label"], 2 if results["main_metric"] != "bits_per_byte" else 4
    gain = _signed(found["gain"], 1 if about["higher_is_better"] else -1)  # as the metric counts
    numbers = (
        f"{gain['value']:+.{digits}f} {label}, 95 % interval {gain['low']:+.{digits}f} to {gain['high']:+.{digits}f} over"
        f" {drawn(results)}, p = {found['p_value']:.3f}"
    )
    if found["seeds"] > 1:
        signs = sum(value > 0 for value in found["by_seed"])
        numbers += f", ahead with {signs} of {found['seeds']} seeds"
    else:
        numbers += ", one seed"
    if found["kind"] == AHEAD:
        small = ", a difference below the margin" if found.get("negligible") else ""
        return f"{name} scores better than {other} ({numbers}){small}; confidence: {found['confidence']}."
    if found["kind"] == EQUAL:
        return f"{name} and {other} are equal within {found['margin']:.{digits}g} ({numbers})."
    return f"Between {name} and {other} nothing is shown ({numbers}): neither a difference nor equality within {found['margin']:.{digits}g}."


def _fastest(results: dict[str, Any], arms: list[str]) -> str | None:
    speeds = {arm: results["arms"][arm]["speed"] for arm in arms}
    if not all(speeds.values()):
        return None
    return min(arms, key=lambda arm: float(speeds[arm]["latency"]["p50_ms"]))


def _as_fast(results: dict[str, Any], arms: list[str]) -> bool:
    """Whether arms that were timed take the same time for an answer, but for what a timing varies by."""
    times = [float(results["arms"][arm]["speed"]["latency"]["p50_ms"]) for arm in arms]
    return max(times) < 1.05 * min(times)


def _costs(results: dict[str, Any], leader: str, verdicts: dict[str, dict[str, Any]]) -> list[str]:
    arms = [leader, *verdicts]
    fast = _fastest(results, arms)
    if fast is None:
        return []
    mine = {arm: results["arms"][arm]["speed"]["latency"]["p50_ms"] for arm in arms}
    slow = max(arms, key=lambda arm: float(mine[arm]))
    if _as_fast(results, arms):
        return ["One input alone is answered about as fast by all arms."]
    sentence = (
        f"{_label(results, fast)} answers one input in {mine[fast]:.1f} ms (median), {_label(results, slow)} in"
        f" {mine[slow]:.1f} ms, {mine[slow] / mine[fast]:.1f} times as long"
    )
    words = {arm: results["arms"][arm]["speed"]["latency"]["mean_tokens"] for arm in (fast, slow)}
    if abs(words[fast] - words[slow]) > 0.1 * words[fast]:
        sentence += f" (answers of {words[fast]:.1f} and {words[slow]:.1f} tokens on average)"
    return [f"{sentence}."]


def _caveats(results: dict[str, Any], test: str) -> list[str]:
    setup = results["configuration"]
    seeds = len(setup["seeds"])
    matched = {
        "parameters": f"parameters matched to within {100 * setup['tolerance']:g} %",
        "compute": "the operations of training matched by formula, not the parameters",
        "none": "neither parameters nor compute matched",
    }[setup["match"]]
    found = [
        f"It holds for this data, this size and this budget ({budget(results)} an arm, {matched}); at another size or with more"
        " training the order may be another one.",
    ]
    read = [run["training"]["tokens"] for arm in results["arms"].values() for run in arm["seeds"].values()]
    if setup["budget"]["minutes"]:
        found.append(
            f"Minutes of this machine and of whatever else it did meanwhile: the runs read {min(read):,.0f} to {max(read):,.0f} tokens."
        )
    if seeds == 1:
        found.append("One seed an arm: how much a score changes from training to training was not measured.")
    elif seeds == 2:
        found.append("Two seeds an arm: too few for an interval over trainings; only their signs are used.")
    if len(results["tests"]) > 1:
        others = ", ".join(name for name in results["tests"] if name != test)
        found.append(f"{test} decides; {others} is reported beside it.")
    if len(results["arms"]) > 2:
        found.append("The intervals are of single pairs of arms, not corrected for how many pairs there are.")
    rates = {arm["init_args"].get("learning_rate") for arm in results["arms"].values()}
    found.append(
        "Learning rate and other settings of training were "
        + ("the same for all arms" if len(rates) == 1 else "set for each arm")
        + " and not searched for."
    )
    objectives = {str(arm["data"].get("objective")) for arm in results["arms"].values()}
    if len(objectives) > 1:
        found.append(
            "The arms learn by different objectives, so their validation losses are not one scale; bits per byte on the test set are."
        )
    about = results["tests"][test]
    for arm, count in about["too_long"].items():
        if count:
            found.append(
                f"{count} of {about['sentences']} inputs of {test} are too long for {_label(results, arm)}; their outputs are"
                " counted as empty."
            )
    if about["sentences_with_likelihood"] < about["sentences"]:
        found.append(
            f"Bits per byte and perplexity are of the {about['sentences_with_likelihood']} of {about['sentences']} answers"
            f" of {test} that fit into every arm together with their input."
        )
    found += [f"{run['arm']}, seed {run['seed']} failed and is missing: {run['reason']}" for run in results["failed"]]
    return found
