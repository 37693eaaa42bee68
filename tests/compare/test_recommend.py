"""What may be said of which numbers."""

import pytest

from compare.made_up import results
from litseq.compare.recommend import recommend


@pytest.mark.parametrize(
    ("case", "headline", "confidence"),
    [
        # Ahead over sentences: how sure is a matter of the seeds.
        (results(3.0, 1.0, [3.0, 2.9, 3.1], 0.5), "Use arm <a>", "high"),
        (results(3.0, 1.0, [5.0, 1.0, 3.0], 4.0), "Use arm <a>", "moderate"),
        (results(3.0, 1.0, [7.0, -1.0, 3.0], 9.0), "one more training could turn it round", "low"),
        (results(3.0, 1.0, [3.0]), "one more training could turn it round", "low"),
        # The interval holds zero: never a winner, whatever the seeds say.
        (results(0.8, 1.5, [0.8, 0.7, 0.9], 0.2), "No winner", "none"),
        (results(0.8, 1.5, [0.8]), "No winner", "none"),
        # Within the margin fixed before: equal, and the faster one is named.
        (results(0.1, 0.5, [0.1, 0.2, 0.0], 0.3), "arm <a> answers fastest", "high"),
        (results(0.1, 0.5, [0.1]), "equally good", "low"),
        # Equal over sentences, not over seeds.
        (results(0.1, 0.5, [3.0, -2.8, 0.1], 7.0), "No winner", "none"),
        (results(0.1, 0.5, [3.0, -2.8]), "No winner", "none"),
        (results(0.1, 0.5, [0.3, -0.1]), "equally good", "moderate"),
    ],
)
def test_rules(case, headline, confidence):
    found = recommend(case)
    assert headline in found["headline"]
    assert found["confidence"] == confidence


def test_the_second_arm_can_win_and_the_sign_follows():
    found = recommend(results(-3.0, 1.0, [-3.0, -3.1], None))
    assert "Use arm <b>" in found["headline"]
    assert found["verdicts"]["a"]["gain"] == pytest.approx({"value": 3.0, "low": 2.0, "high": 4.0})
    assert "+3.00 BLEU" in found["sentences"][0]


def test_equal_arms_are_told_apart_by_speed():
    found = recommend(results(0.1, 0.5, [0.1, 0.2, 0.0], 0.3, p50=(30.0, 10.0)))
    assert "arm <b> answers fastest" in found["headline"]
    assert "3.0 times as long" in found["sentences"][-1]


def test_of_equal_arms_that_are_as_fast_none_is_named():
    found = recommend(results(0.1, 0.5, [0.1, 0.2, 0.0], 0.3, p50=(10.0, 10.1)))
    assert found["headline"].endswith("and answer about as fast: use any of them.")
    assert found["sentences"][-1] == "One input alone is answered about as fast by all arms."


def test_a_difference_below_the_margin_is_called_one():
    assert "below the margin" in recommend(results(0.5, 0.2, [0.5]))["sentences"][0]


def test_what_was_not_tested_is_said():
    failed = [{"arm": "c", "seed": 1, "reason": "out of memory"}]
    caveats = " ".join(recommend(results(3.0, 1.0, [3.0], failed=failed))["caveats"])
    for part in ("5,000,000 tokens", "One seed", "not searched for", "c, seed 1 failed", "out of memory"):
        assert part in caveats
    assert "One seed" not in " ".join(recommend(results(3.0, 1.0, [3.0] * 3, 0.1))["caveats"])


def test_untrained_arms_are_not_called_equal():
    case = results(0.1, 0.5, [0.1, 0.2, 0.0], 0.3)
    for score in case["tests"]["test"]["scores"]["bleu"].values():
        score["value"] -= 39
    found = recommend(case)
    assert "Too little was learned" in found["headline"]
    assert found["confidence"] == "none"


def test_what_makes_times_unequal_is_said():
    case = results(3.0, 1.0, [3.0])
    case["configuration"]["budget"] = {"tokens": None, "minutes": 5}
    case["arms"]["b"]["speed"]["latency"]["mean_tokens"] = 30.0
    found = recommend(case)
    assert "answers of 9.0 and 30.0 tokens" in found["sentences"][-1]
    assert any("5,000,000 to 5,000,000 tokens" in caveat for caveat in found["caveats"])


def test_with_compute_matched_no_number_of_tokens_is_every_arms():
    case = results(3.0, 1.0, [3.0])
    case["configuration"]["match"] = "compute"
    caveats = recommend(case)["caveats"]
    assert "this budget (the operations of 5,000,000 tokens of arm <a> an arm" in caveats[0]


def test_of_a_few_sentences_nothing_is_said():
    case = results(3.0, 0.0, [3.0, 2.9, 3.1], 0.5)
    case["tests"]["test"]["resampled"]["count"] = 1
    found = recommend(case)
    assert "Too little was tested to compare anything: 1 of the 20" in found["headline"]
    assert found["confidence"] == "none"
    assert not any("scores better" in sentence for sentence in found["sentences"])


def test_inputs_that_an_arm_could_not_read_are_said():
    case = results(3.0, 1.0, [3.0])
    case["tests"]["test"] |= {"too_long": {"a": 0, "b": 7}, "sentences_with_likelihood": 80}
    caveats = " ".join(recommend(case)["caveats"])
    assert "7 of 100 inputs of test are too long for arm <b>" in caveats
    assert "of the 80 of 100 answers" in caveats
    assert "too long for arm <a>" not in caveats


def test_a_lucky_seed_that_the_other_arm_lacks_makes_no_leader():
    case = results(-3.0, 1.0, [-3.0])
    scores = case["tests"]["test"]["scores"]["bleu"]
    scores["a"]["by_seed"] = {"1": 40.0, "2": 60.0}  # b, seed 2 failed
    scores["a"]["value"] = 50.0
    found = recommend(case)
    assert found["leader"] == "b"
    assert "scores better" in found["sentences"][0]


def test_two_arms_are_ranked_by_all_their_seeds_where_a_third_has_lost_some():
    case = results(3.0, 1.0, [6.0, 6.0, -3.0], 15.0)  # a is ahead of b, but for the only seed that c has
    scores, differences = (case["tests"]["test"][name]["bleu"] for name in ("scores", "differences"))
    scores["a"]["by_seed"], scores["b"]["by_seed"] = {"1": 43, "2": 43, "3": 34}, {"1": 37, "2": 37, "3": 37}
    scores["c"] = scores["b"] | {"value": 20.0, "by_seed": {"3": 20.0}}
    case["arms"]["c"] = case["arms"]["b"]
    case["tests"]["test"]["too_long"]["c"] = 0
    for arm, gain in (("a", 14.0), ("b", 17.0)):
        shared = {"seeds": 1, "by_seed": [gain], "seed_interval": None}
        differences.append(
            differences[0] | shared | {"arm": arm, "against": "c", "difference": {"value": gain, "low": 9, "high": 20}}
        )
    found = recommend(case)
    assert found["leader"] == "a"
    assert found["verdicts"]["b"]["kind"] == "ahead"
