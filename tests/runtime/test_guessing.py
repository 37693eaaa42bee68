"""Guessing ahead on onnxruntime: the same tokens, whoever guesses."""

import dataclasses
import itertools
import pickle

import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.generation.draft_model import DraftModel
from litseq.generation.speculation import Costs
from litseq.runtime import Generator
from litseq.runtime.guessing import Guessing
from litseq.text import Tokenizer
from runtime.fixtures import FIXTURES, VOCAB_SIZE, fixture_path
from runtime.tiny_bundles import write_tiny_bundle
from runtime.tiny_graphs import TinyNet

LONG = 40


@pytest.fixture(scope="module", params=FIXTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def plain(name):
    return Generator.from_bundle(fixture_path(name), threads=1)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(2)
    return [[*(rng.integers(3, 20, 6).tolist() * 2), *rng.integers(3, 300, n).tolist()] for n in range(1, 13)]


@pytest.fixture(scope="module")
def wanted(plain, prompts):
    return told(plain, prompts, prompt_lookup=False)


def told(generator, prompts, **options):
    return [(c.token_ids, c.finish_reason) for c in generator.generate(prompts, max_new_tokens=LONG, **options)]


def eager(generator):
    """Let guessing pay always: by this clock every call takes the same time."""
    generator._guessing.costs = Costs(itertools.count().__next__)
    return generator


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("option", [None, True])
def test_lookup_changes_no_token(plain, prompts, wanted, batch_size, option):
    assert told(plain, prompts, prompt_lookup=option, batch_size=batch_size) == wanted
    texts = ["".join(plain.stream(prompt, max_new_tokens=LONG, prompt_lookup=option)) for prompt in prompts]
    assert texts == [plain.tokenizer.decode(ids) for ids, _ in wanted]


def test_lookup_saves_calls(plain, prompts, monkeypatch):
    calls = count_calls(monkeypatch)
    counts = []
    for option in (False, True):
        calls.clear()
        plain.generate(prompts, max_new_tokens=LONG, prompt_lookup=option, batch_size=1)
        counts.append(len(calls))
    assert counts[1] < counts[0]


def count_calls(monkeypatch):
    from litseq.runtime.step_model import OrtStepModel

    calls = []
    for method in ("read", "advance"):
        original = getattr(OrtStepModel, method)

        def counted(self, *args, original=original, **options):
            calls.append(args)
            return original(self, *args, **options)

        monkeypatch.setattr(OrtStepModel, method, counted)
    return calls


def test_stop_strings_end_within_a_guess(plain, prompts):
    (long,) = plain.generate(prompts[:1], max_new_tokens=LONG, prompt_lookup=False)
    for stop in {long.text[i : i + 2] for i in range(0, len(long.text) - 2, 3)}:
        options = {"max_new_tokens": LONG, "stop": [stop]}
        asked = plain.generate(prompts[:1], prompt_lookup=True, **options)
        assert asked == plain.generate(prompts[:1], prompt_lookup=False, **options)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_draft_model_changes_no_token(name, prompts, wanted, tmp_path, seed):
    pytest.importorskip("onnx")
    net = TinyNet(vocab_size=VOCAB_SIZE, num_layers=1, seed=seed, end_boost=2.5, **FIXTURES[name])
    draft = write_tiny_bundle(tmp_path / "draft", net, Tokenizer.load(fixture_path(name) / "tokenizer.json"))
    generator = eager(Generator.from_bundle(fixture_path(name), threads=1, draft=draft))
    for batch_size in (1, 4):
        assert told(generator, prompts, batch_size=batch_size, prompt_lookup=False) == wanted
        assert told(generator, prompts, batch_size=batch_size) == wanted


def test_a_bundle_is_a_perfect_draft_of_itself(plain, prompts, wanted, monkeypatch):
    guesses = []
    draft = DraftModel.draft

    def noted(self, rows, counts):
        found = draft(self, rows, counts)
        guesses.extend((len(row.tokens), guess) for row, guess in zip(rows, found, strict=True) if guess)
        return found

    monkeypatch.setattr(DraftModel, "draft", noted)
    generator = eager(Generator.from_bundle(plain._path, threads=1, draft=plain))
    for prompt, (ids, reason) in zip(prompts, wanted, strict=True):
        guesses.clear()
        assert told(generator, [prompt], prompt_lookup=False) == [(ids, reason)]
        for start, guess in guesses:
            came = [*ids[start:], generator.tokenizer.eos_id] if reason == "eos" else ids[start:]
            assert guess[: len(came)] == came[: len(guess)]
    assert guesses


def test_a_draft_goes_with_its_generator_to_another_process(plain, prompts, wanted):
    again = pickle.loads(pickle.dumps(Generator.from_bundle(plain._path, threads=1, draft=plain)))
    assert again._guessing.draft is not None
    assert told(again, prompts[:2]) == wanted[:2]


def test_a_draft_that_does_not_fit_is_refused(name, tmp_path):
    for other, problem in (
        ("tiny-encoder-decoder" if name != "tiny-encoder-decoder" else "tiny-decoder-only", "its architecture is"),
        (f"exported-{name.removeprefix('tiny-')}", "its vocab_size is 60, the bundle's is 300"),
    ):
        with pytest.raises(UsageError, match=f"the draft bundle does not fit: {problem}.*a draft needs the same"):
            Generator.from_bundle(fixture_path(name), threads=1, draft=fixture_path(other))
    pytest.importorskip("onnx")
    other = Tokenizer.train(["entirely other words", "and letters: ÄÖÜ"], vocab_size=VOCAB_SIZE, kind="char")
    net = TinyNet(vocab_size=VOCAB_SIZE, **FIXTURES[name])
    write_tiny_bundle(tmp_path / "other", net, other)
    with pytest.raises(UsageError, match=r"its (end )?token"):
        Generator.from_bundle(fixture_path(name), threads=1, draft=tmp_path / "other")


def test_a_recurrent_state_cannot_go_back(tmp_path):
    pytest.importorskip("onnx")
    net = TinyNet(vocab_size=VOCAB_SIZE, state=True)
    path = write_tiny_bundle(tmp_path / "b", net, Tokenizer.load(fixture_path("tiny-decoder-only") / "tokenizer.json"))
    generator = Generator.from_bundle(path, threads=1)
    assert len(generator.generate([[5] * 9], max_new_tokens=9)) == 1
    with pytest.raises(UsageError, match="prompt_lookup is True, and the bundle has a recurrent state"):
        generator.generate(["a"], prompt_lookup=True)
    with pytest.raises(UsageError, match="it has a recurrent state"):
        Generator.from_bundle(fixture_path("tiny-decoder-only"), threads=1, draft=path)


def test_a_bundle_whose_kernels_round_by_the_shape_of_the_call_does_not_guess_unless_asked(plain):
    quantised = dataclasses.replace(plain.manifest, quantization={"batch_invariant": False})
    assert not Guessing(quantised).drafters()[0]._default
    assert Guessing(plain.manifest).drafters()[0]._default
