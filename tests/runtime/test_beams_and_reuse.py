"""Beams, samples, forced beginnings and reuse on real graphs of all three kinds."""

import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.runtime import Generator
from runtime.fixtures import FIXTURES, fixture_net, fixture_path


@pytest.fixture(scope="module", params=FIXTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def generator(name):
    return Generator.from_bundle(fixture_path(name), threads=1)


def random_prompts(count, seed=0, shortest=1, longest=25):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 300, rng.integers(shortest, longest)).tolist() for _ in range(count)]


def uncached_beams(net, prompt, beams, steps, end=2):
    """Beam search by the definition, every score from an uncached pass; `length_penalty` 1, `early_stopping` False."""
    start, source = ([1], prompt) if net.encoder_decoder else (prompt, None)
    running, finished = [([], 0.0)], []
    for length in range(1, steps + 1):
        options = []
        for tokens, total in running:
            logits = net.logits([*start, *tokens], source, len(start))[-1].astype(np.float64)
            values = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
            best = np.argsort(-values)[: 2 * beams]
            options += [([*tokens, int(t)], total + values[t]) for t in best]
        options = sorted(options, key=lambda pair: -pair[1])[: 2 * beams]
        ending = [tokens[-1] == end or length == steps for tokens, _ in options]
        finished += [
            ([t for t in tokens if t != end], total / length)
            for (tokens, total), ends in zip(options[:beams], ending[:beams], strict=True)
            if ends
        ]
        finished = sorted(finished, key=lambda pair: -pair[1])[:beams]
        running = [option for option, ends in zip(options, ending, strict=True) if not ends][:beams]
        if not running or (len(finished) == beams and running[0][1] / length <= finished[-1][1]):
            break
    return finished


def test_beams_equal_an_uncached_search(generator, name):
    net = fixture_net(name)
    prompts = random_prompts(9)
    found = generator.generate(prompts, max_new_tokens=9, num_beams=4, num_return_sequences=2, batch_size=20)
    for i, prompt in enumerate(prompts):
        wanted = uncached_beams(net, prompt, 4, 9)[:2]
        ours = found[2 * i : 2 * i + 2]
        assert [completion.token_ids for completion in ours] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([c.score for c in ours], [score for _, score in wanted], atol=1e-4)


def test_one_more_beam_than_the_batch_has_rows(generator):
    prompts = random_prompts(3)
    small = generator.generate(prompts, max_new_tokens=6, num_beams=5, batch_size=2)
    assert small == generator.generate(prompts, max_new_tokens=6, num_beams=5)


def test_a_stream_of_beams_gives_the_same_text(generator):
    for text in ("hello there", "a", "one two three"):
        (completion,) = generator.generate([text], max_new_tokens=20, num_beams=3)
        assert "".join(generator.stream(text, max_new_tokens=20, num_beams=3)) == completion.text
    with pytest.raises(UsageError, match="a stream is one text"):
        generator.stream("a", num_beams=2, num_return_sequences=2)


def test_samples_stand_side_by_side(generator):
    options = {"max_new_tokens": 8, "temperature": 1.4, "seed": 2}
    found = generator.generate(["ab", "cd"], num_return_sequences=3, **options)
    assert len(found) == 6
    single = generator.generate(["ab", "cd"], **options)
    assert [found[0], found[3]] == single
    assert len({tuple(completion.token_ids) for completion in found}) > 2


def test_a_forced_beginning_is_part_of_the_output(generator):
    prompts = ["hello", "so it is"]
    plain = generator.generate(prompts, max_new_tokens=12)
    forced = [completion.token_ids[:4] for completion in plain]
    for prompt, completion, beginning in zip(prompts, plain, forced, strict=True):
        (again,) = generator.generate([prompt], prefix=beginning, max_new_tokens=12 - len(beginning))
        assert (again.token_ids, again.text) == (completion.token_ids, completion.text)
    (text,) = generator.generate(["hello"], prefix="xyz ", max_new_tokens=5)
    assert text.text.startswith("xyz ")
    assert "".join(generator.stream("hello", prefix="xyz ", max_new_tokens=5)) == text.text
    with pytest.raises(UsageError, match="prompt 0 and prefix have"):
        generator.generate(["hello"], prefix=[5] * 64)


def test_bad_words_do_not_occur(generator):
    (plain,) = generator.generate(["hello"], max_new_tokens=12)
    word = plain.token_ids[1:3]
    (without,) = generator.generate(["hello"], max_new_tokens=12, bad_words=[word, "q"])
    pairs = list(zip(without.token_ids, without.token_ids[1:], strict=False))
    assert tuple(word) not in pairs
    assert "q" not in without.text


def test_a_stop_string_ends_beams_and_samples(generator):
    prompts = [chr(97 + i) * 3 for i in range(26)]
    for prompt, plain in zip(prompts, generator.generate(prompts, max_new_tokens=12, num_beams=3), strict=True):
        stop = plain.text[2:4]
        if len(stop) == 2 and stop.isprintable():
            (cut,) = generator.generate([prompt], max_new_tokens=12, num_beams=3, stop=stop)
            assert stop not in cut.text
    for sample in generator.generate(
        ["hello"] * 4, max_new_tokens=20, top_k=50, seed=0, num_return_sequences=2, stop="a"
    ):
        assert "a" not in sample.text


def test_a_chat_gives_the_same_tokens_with_and_without_reuse(name):
    keeps = Generator.from_bundle(fixture_path(name), threads=1, reuse_bytes=2**20)
    forgets = Generator.from_bundle(fixture_path(name), threads=1, reuse_bytes=0)
    said, seen = [], []
    for turn in range(4):
        said = [*said, *random_prompts(1, turn, 8, 9)[0]]
        ((kept,), (fresh,)) = (g.generate([said], max_new_tokens=6) for g in (keeps, forgets))
        assert kept == fresh
        seen.append(len(keeps._reuse))
        said += kept.token_ids
    can = name == "tiny-decoder-only"
    assert (seen[-1] > 0) == can
    assert forgets._reuse is None
    for bad in (-1, 1.5, True):
        with pytest.raises(UsageError, match="reuse_bytes is"):
            Generator.from_bundle(fixture_path(name), reuse_bytes=bad)


def test_a_stream_is_kept_for_the_next_turn():
    generator = Generator.from_bundle(fixture_path("tiny-decoder-only"), threads=1)
    prompt = random_prompts(1, 0, 24, 25)[0]
    text = "".join(generator.stream(prompt, max_new_tokens=6))
    assert len(generator._reuse) == 1
    assert "".join(generator.stream(prompt, max_new_tokens=6)) == text


def test_prompts_with_one_introduction_give_the_same_as_alone(generator):
    start = random_prompts(1, 3, 30, 31)[0]
    prompts = [start + more for more in random_prompts(8, 4, 1, 8)]
    together = generator.generate(prompts, max_new_tokens=10)
    assert together == [generator.generate([prompt], max_new_tokens=10)[0] for prompt in prompts]
