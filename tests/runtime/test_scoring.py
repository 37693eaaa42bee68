import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.runtime import Generator, scoring
from runtime.fixtures import FIXTURES, fixture_net, fixture_path
from runtime.tiny_bundles import tiny_tokenizer, write_tiny_bundle
from runtime.tiny_graphs import TinyNet


def wanted(net, prompt, target):
    """The definition: one uncached pass over prompt and target."""
    ids, source = ([1], prompt) if net.encoder_decoder else (prompt, None)
    logits = net.logits([*ids, *target], source, len(ids))[len(ids) - 1 : -1].astype(np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return log_probs[np.arange(len(target)), target]


def pairs(net, count=12, seed=0):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, net.vocab_size, rng.integers(1, 25)).tolist() for _ in range(count)]
    targets = [rng.integers(3, net.vocab_size, rng.integers(1, 30)).tolist() for _ in range(count)]
    return prompts, targets


@pytest.fixture(params=[*FIXTURES, "prefix-lm"])
def case(request, tmp_path):
    if request.param in FIXTURES:
        return fixture_net(request.param), Generator.from_bundle(fixture_path(request.param), threads=1)
    pytest.importorskip("onnx")
    tokenizer = tiny_tokenizer()
    net = TinyNet(vocab_size=tokenizer.vocab_size, prefix_lm=True)
    return net, Generator.from_bundle(write_tiny_bundle(tmp_path / "bundle", net, tokenizer), threads=1)


@pytest.mark.parametrize("logits_bytes", [64 * 2**20, 9_000, 1])
def test_scores_equal_an_uncached_pass(case, logits_bytes, monkeypatch):
    """Also when the logits allowed for one call are so few that a target is scored in pieces."""
    monkeypatch.setattr(scoring, "_LOGITS_BYTES", logits_bytes)
    net, generator = case
    prompts, targets = pairs(net, 12 if logits_bytes > 1 else 3)
    for prompt, target, found in zip(prompts, targets, generator.score(prompts, targets), strict=True):
        np.testing.assert_allclose(found.logprobs, wanted(net, prompt, target), atol=1e-4)
        assert found.token_ids == target
        assert found.score == pytest.approx(sum(found.logprobs))


def test_the_end_of_a_text_is_scored_too(case):
    net, generator = case
    (found,) = generator.score(["the fox"], ["a dog"])
    ids = generator.tokenizer.encode("the fox")
    prompt = [*ids, 2] if net.encoder_decoder else [1, *ids]
    target = [*generator.tokenizer.encode("a dog"), 2]
    np.testing.assert_allclose(found.logprobs, wanted(net, prompt, target), atol=1e-4)


def test_an_empty_target_scores_nothing(case):
    (found,) = case[1].score([[5, 6]], [[]])
    assert (found.score, found.logprobs) == (0.0, [])
    (text,) = case[1].score(["a"], [""])
    assert text.token_ids == [2]


def test_targets_that_cannot_be_scored(case):
    generator = case[1]
    with pytest.raises(UsageError, match="2 prompts and 1 targets"):
        generator.score(["a", "b"], ["c"])
    with pytest.raises(UsageError, match=r"target 0 has \d+ tokens, the model has room for \d+"):
        generator.score([[5, 6]], [[5] * 65])
    with pytest.raises(UsageError, match="target 0 has the token id 999"):
        generator.score([[5, 6]], [[999]])
