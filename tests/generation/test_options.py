import numpy as np
import pytest

from litseq.errors import UsageError
from litseq.generation import GenerationOptions


@pytest.mark.parametrize(
    ("values", "sampling"),
    [
        ({}, False),
        ({"temperature": 0}, False),
        ({"temperature": 0.5}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.9}, True),
        ({"min_p": 0.1}, True),
        ({"temperature": 0, "top_k": 5}, False),
        ({"do_sample": True}, True),
        ({"do_sample": False, "temperature": 0.7}, False),
        ({"do_sample": True, "temperature": 0.0}, False),
    ],
)
def test_what_makes_it_sample(values, sampling):
    assert GenerationOptions(**values).sampling is sampling


def test_scalars_and_arrays_of_numpy_are_pythons_numbers_and_lists():
    options = GenerationOptions(
        max_new_tokens=np.int64(3),
        temperature=np.float32(0.5),
        seed=np.uint64(2**63),
        logprobs=np.True_,
        prefix=np.array([5, 6]),
        bad_words=[np.array([7])],
    )
    assert options == GenerationOptions(
        max_new_tokens=3, temperature=0.5, seed=2**63, logprobs=True, prefix=[5, 6], bad_words=[[7]]
    )
    assert type(options.max_new_tokens) is int and type(options.temperature) is float


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", np.float64(3)),
        ("max_new_tokens", np.True_),
        ("bad_words", [[True]]),
        ("max_new_tokens", 0),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("min_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        pytest.param("temperature", 10**400, id="temperature-huge"),
        ("temperature", "hot"),
        ("top_k", 0),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("repetition_penalty", 0),
        ("repetition_penalty", None),
        ("no_repeat_ngram_size", -1),
        ("seed", -1),
        ("logprobs", 3),
        ("top_logprobs", -1),
        ("do_sample", "yes"),
        ("do_sample", 1),
        ("stop", ("",)),
        ("stop", (3,)),
        ("num_beams", 0),
        ("num_beams", 1.5),
        ("num_return_sequences", 2),
        ("num_return_sequences", 0),
        ("length_penalty", "long"),
        ("length_penalty", 1000.0),
        ("length_penalty", -31),
        ("early_stopping", "always"),
        ("early_stopping", 1),
        ("num_beam_groups", 2),
        ("diversity_penalty", -1),
        ("bad_words", ["a", ""]),
        ("bad_words", "abc"),
        ("bad_words", [[-1]]),
        ("bad_words", [b"ab"]),
        ("prefix", b"ab"),
        ("prefix", 3),
        ("prefix_allowed_tokens", [3]),
        ("prompt_lookup", "yes"),
        ("prompt_lookup", 1),
    ],
)
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        GenerationOptions(**{name: value})
    assert "\n" not in str(caught.value)


def test_the_most_is_named_where_there_is_one():
    with pytest.raises(UsageError, match="num_beams is 1025, expected an integer of at most 1024"):
        GenerationOptions(num_beams=1025)


def test_all_problems_are_named_at_once():
    with pytest.raises(UsageError, match=r"max_new_tokens is 0.*top_p is 2.*stop is"):
        GenerationOptions(max_new_tokens=0, top_p=2, stop=("",))


def test_min_above_max():
    with pytest.raises(UsageError, match="min_new_tokens is 9, more than max_new_tokens 3"):
        GenerationOptions(max_new_tokens=3, min_new_tokens=9)


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(
        UsageError, match=r"no generation option is called 'max_new_token'; did you mean max_new_tokens\?"
    ):
        GenerationOptions.from_mapping({"max_new_token": 3})
    with pytest.raises(UsageError, match="sampling"):
        GenerationOptions.from_mapping({"sampling": True})


def test_given_values_replace_those_of_the_base():
    base = GenerationOptions(max_new_tokens=9, temperature=0.5)
    merged = GenerationOptions.from_mapping({"temperature": None, "stop": "end"}, base)
    assert (merged.max_new_tokens, merged.temperature, merged.sampling, merged.stop) == (9, None, False, ("end",))


def test_what_the_bundle_asks_for_can_be_turned_off():
    sampled, searched = GenerationOptions(temperature=0.8, do_sample=True), GenerationOptions(num_beams=4)
    assert not GenerationOptions.from_mapping({"num_beams": 4, "temperature": 0}, sampled).sampling
    assert GenerationOptions.from_mapping({"num_beams": 1, "temperature": 0.8}, searched).sampling


def test_stop_takes_one_string_or_several():
    assert GenerationOptions(stop="a").stop == ("a",)
    assert GenerationOptions(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"num_beams": 4, "temperature": 0.5},
            "num_beams is 4 and sampling is asked for.*num_beams=1 or temperature=0",
        ),
        ({"num_beams": 2, "num_return_sequences": 3}, "more than num_beams 2"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beams that it divides"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty above 0"),
    ],
)
def test_options_of_beams_that_contradict_each_other(options, words):
    with pytest.raises(UsageError, match=words):
        GenerationOptions(**options)
