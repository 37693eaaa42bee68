import pytest

from litseq.text import PromptFormat


def test_render_puts_the_ids_between_prefix_and_suffix():
    assert PromptFormat(prefix_ids=(1,), suffix_ids=(4, 5)).render([7, 8]) == [1, 7, 8, 4, 5]
    assert PromptFormat(start_ids=(1,)).render((9,)) == [9]


def test_plain_dictionary_and_back():
    form = PromptFormat((1,), (4,), (2, 3))
    plain = form.to_dict()
    assert plain == {"prefix_ids": [1], "suffix_ids": [4], "start_ids": [2, 3]}
    assert PromptFormat.from_dict(plain) == form
    assert PromptFormat.from_dict({"suffix_ids": [2]}) == PromptFormat(suffix_ids=(2,))


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"stop_ids": [1]}, r"unknown keys \['stop_ids'\]"),
        ({"prefix_ids": 1}, "prefix_ids is 1"),
        ({"prefix_ids": ["1"]}, "expected a list of token ids"),
        ({"suffix_ids": [-1]}, "expected a list of token ids"),
        ({"start_ids": [True]}, "expected a list of token ids"),
    ],
)
def test_anything_else_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        PromptFormat.from_dict(plain)
