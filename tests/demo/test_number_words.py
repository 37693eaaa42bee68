"""The demo's data: right words, and no number in two files."""

from litseq.demo.number_words import LARGEST, draw_numbers, number_pair, write_number_pairs


def test_number_words_by_hand():
    assert number_pair(42_007) == ("forty-two thousand and seven", "zweiundvierzigtausendsieben")
    assert number_pair(0) == ("zero", "null")
    assert number_pair(999_999)[1] == "neunhundertneunundneunzigtausendneunhundertneunundneunzig"


def test_numbers_are_distinct_and_the_seed_decides():
    numbers = draw_numbers(5_000, seed=1)
    assert len(set(numbers)) == 5_000
    assert min(numbers) >= 0
    assert max(numbers) <= LARGEST
    assert numbers == draw_numbers(5_000, seed=1) != draw_numbers(5_000, seed=2)


def test_split_is_by_number(tmp_path):
    pairs = write_number_pairs(tmp_path, draw_numbers(350, seed=3), val=20, test=30)
    lines = {name: (tmp_path / f"{name}.tsv").read_text("utf-8").splitlines() for name in ("train", "val", "test")}
    assert {name: len(part) for name, part in lines.items()} == {"train": 300, "val": 20, "test": 30}
    # A number has one spelling, so that disjoint spellings are disjoint numbers.
    assert len(set().union(*lines.values())) == 350
    assert [tuple(line.split("\t")) for line in lines["test"]] == pairs.test_pairs
