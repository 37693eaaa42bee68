"""Text in, text out, over committed bundles: needs numpy, tokenizers and onnxruntime only."""

import threading

import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.runtime import Generator, Scheduler
from runtime.fixtures import FIXTURES, fixture_net, fixture_path

TEXTS = ["the quick brown fox", "", "größe 🙂", "a", "one two three four five six seven", "你好"]


@pytest.fixture(scope="module", params=FIXTURES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def generator(name):
    return Generator.from_bundle(fixture_path(name), threads=1)


@pytest.fixture(scope="module")
def net(name):
    return fixture_net(name)


def slow(net, generator, prompt, steps):
    """The greedy output from the uncached network; `prompt` as the bundle's prompt format frames it."""
    ids = prompt if isinstance(prompt, list) else generator.tokenizer.encode(prompt)
    if net.encoder_decoder:
        source = prompt if isinstance(prompt, list) else [*ids, 2]
        out = net.greedy([1], steps, 2, source)
    else:
        out = net.greedy(prompt if isinstance(prompt, list) else [1, *ids], steps, 2)
    return [token for token in out if token != 2]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_greedy_equals_the_network_without_a_cache(generator, net, batch_size):
    rng = np.random.default_rng(0)
    prompts = [*TEXTS, *(rng.integers(3, 300, rng.integers(1, 25)).tolist() for _ in range(30))]
    found = generator.generate(prompts, max_new_tokens=20, batch_size=batch_size)
    assert [c.token_ids for c in found] == [slow(net, generator, prompt, 20) for prompt in prompts]
    assert {c.finish_reason for c in found} == {"eos", "length"}
    for completion in found:
        assert completion.text == generator.tokenizer.decode(completion.token_ids)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 4}, {"top_k": 20, "top_p": 0.9, "seed": 1}])
def test_streaming_gives_the_same_text(generator, options):
    for text in TEXTS:
        (completion,) = generator.generate([text], max_new_tokens=30, **options)
        pieces = list(generator.stream(text, max_new_tokens=30, **options))
        assert "".join(pieces) == completion.text
        assert all(pieces)


def test_the_default_length_is_the_bundles(generator):
    assert max(len(c.token_ids) for c in generator.generate(TEXTS)) == 24


def test_output_is_clipped_to_what_fits(generator, net):
    prompt = [5] * 60
    (completion,) = generator.generate([prompt], max_new_tokens=1000, min_new_tokens=1000)
    assert completion.finish_reason == "length"
    assert len(completion.token_ids) == (64 if net.encoder_decoder else 5)


def test_nothing_to_do(generator):
    assert generator.generate([]) == []
    assert generator.score([], []) == []


def test_the_same_prompt_many_times(generator):
    found = generator.generate(["the fox"] * 70, max_new_tokens=8, batch_size=16)
    assert len({c.text for c in found}) == 1


def test_a_thousand_prompts_in_bounded_memory(generator):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 300, rng.integers(1, 30)).tolist() for _ in range(1000)]
    found = generator.generate(prompts, max_new_tokens=6, batch_size=16)
    assert len(found) == 1000
    again = generator.generate(prompts[500:510], max_new_tokens=6)
    assert [c.token_ids for c in found[500:510]] == [c.token_ids for c in again]
    assert all(model.nbytes < 16 * 2**20 for model in generator._free)


def test_samples_depend_on_seed_and_place_only(generator):
    options = {"temperature": 1.5, "max_new_tokens": 10}
    first = generator.generate(TEXTS, seed=3, batch_size=2, **options)
    assert generator.generate(TEXTS, seed=3, batch_size=32, **options) == first
    assert generator.generate(TEXTS[:3], seed=3, **options) == first[:3]
    assert generator.generate(TEXTS, seed=4, **options) != first
    assert generator.generate(TEXTS, **options) != generator.generate(TEXTS, **options)


def test_stop_strings(generator):
    (free,) = generator.generate(["the quick brown fox"], max_new_tokens=24, min_new_tokens=24)
    stop = free.text[6:8]
    options = {"max_new_tokens": 24, "min_new_tokens": 24, "stop": stop}
    (stopped,) = generator.generate(["the quick brown fox"], **options)
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
    assert len(stopped.token_ids) < len(free.token_ids)
    assert "".join(generator.stream("the quick brown fox", **options)) == stopped.text
    (other,) = generator.generate(["the quick brown fox"], max_new_tokens=24, min_new_tokens=24, stop=["never there"])
    assert other.text == free.text


def test_log_probabilities_equal_the_networks(generator, net):
    for completion in generator.generate([[5, 6, 7]], max_new_tokens=6, top_logprobs=2):
        ids, source = ([1], [5, 6, 7]) if net.encoder_decoder else ([5, 6, 7], None)
        logits = net.logits([*ids, *completion.token_ids], source, len(ids))[len(ids) - 1 :]
        wanted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        picked = [wanted[i, token] for i, token in enumerate(completion.token_ids)]
        np.testing.assert_allclose(completion.logprobs, picked, atol=1e-4)
        assert [best[0][0] for best in completion.top_logprobs] == completion.token_ids
        assert all(len(best) == 2 for best in completion.top_logprobs)
    # Scoring what was generated finds the same numbers.
    (completion,) = generator.generate(["the fox"], max_new_tokens=6, logprobs=True)
    (scored,) = generator.score(["the fox"], [completion.token_ids])
    np.testing.assert_allclose(scored.logprobs, completion.logprobs, atol=1e-4)


def test_calls_from_several_threads_do_not_mix(generator):
    wanted = [generator.generate([text], max_new_tokens=16)[0] for text in TEXTS]
    found = [None] * len(TEXTS)

    def work(i):
        for _ in range(5):
            found[i] = generator.generate([TEXTS[i]], max_new_tokens=16)[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(TEXTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_two_streams_at_once_and_one_left_unfinished(generator):
    options = {"max_new_tokens": 20, "min_new_tokens": 20}
    wanted = "".join(generator.stream("the fox", **options))
    left = generator.stream("a", **options)
    next(left)
    one, two = generator.stream("the fox", **options), generator.stream("the fox", **options)
    pieces: tuple[list[str], list[str]] = ([], [])
    for piece in one:
        pieces[0].append(piece)
        pieces[1].append(next(two))
    assert "".join(pieces[0]) == "".join(pieces[1]) == wanted
    left.close()


def refused(call, *words):
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_numbers_and_arrays_of_numpy_are_taken_everywhere(generator, name):
    ids = np.array([5, 6, 7])
    other = Generator.from_bundle(
        fixture_path(name), threads=np.int64(1), batch_size=np.int32(2), reuse_bytes=np.int64(2**20)
    )
    wanted = generator.generate([[5, 6, 7]], max_new_tokens=6)
    assert other.generate([ids], max_new_tokens=np.int64(6), batch_size=np.int64(1), workers=np.int8(1)) == wanted
    assert list(other.generate_iterable([ids], window=np.int64(2), max_new_tokens=6)) == wanted
    assert other.score([ids], [ids]) == generator.score([[5, 6, 7]], [[5, 6, 7]])
    with Scheduler(other, max_rows=np.int64(1), chunk_tokens=np.int64(8)) as scheduler:
        assert scheduler.submit(ids, priority=np.int64(1), max_new_tokens=6).result(30).token_ids == wanted[0].token_ids


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["ok", [5] * 65], "prompt 1 has 65 tokens, the model takes at most 64"),
        ([[]], "prompt 0 is empty"),
        ([[5, 300]], "prompt 0 has the token id 300, the model knows 0 to 299"),
        ([[-1]], "token id -1"),
        ([3], "prompt 0 is of type int, expected text or a list of token ids"),
        ([[1.5]], "prompt 0 is of type list"),
        ([[True]], "prompt 0 is of type list"),
        ([b"hello"], "prompt 0 is of type bytes, expected text or a list of token ids"),
        ([np.array([1.5])], "prompt 0 is of type ndarray"),
        ([np.array([[5, 6]])], "prompt 0 is of type ndarray"),
        (["a\ud800"], "prompt 0 is no valid Unicode"),
        ("text", "prompts is of type str, expected a list"),
        (None, "prompts is of type NoneType"),
    ],
)
def test_prompts_that_cannot_be_used(generator, prompts, words):
    refused(lambda: generator.generate(prompts), words)
    refused(lambda: generator.score(prompts, ["x"] * len(prompts or ())), words)


def test_a_prompt_that_cannot_be_streamed_is_refused_at_once(generator):
    refused(lambda: generator.stream([5] * 65), "the prompt has 65 tokens")


def test_options_that_cannot_be_used(generator):
    refused(lambda: generator.generate(["a"], max_token=3), "no generation option is called 'max_token'")
    refused(lambda: generator.generate(["a"], max_new_tokens=0), "max_new_tokens is 0")
    refused(lambda: generator.generate(["a"], num_beams=0), "num_beams is 0, expected an integer of at least 1")
    refused(lambda: generator.generate(["a"], batch_size=0), "batch_size is 0")
    refused(lambda: generator.stream("a", top_p=7), "top_p is 7")


def test_numpy_ids_are_ids(generator):
    ids = np.array([5, 6, 7])
    assert generator.generate([list(ids)], max_new_tokens=3) == generator.generate([[5, 6, 7]], max_new_tokens=3)
