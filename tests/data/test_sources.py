import gzip
import json

import pytest

from litseq.data.lines import BadLines, file_facts, read_lines
from litseq.data.sources import (
    PairFields,
    flat_paths,
    pair_sources,
    plain_paths,
    read_documents,
    read_pairs,
    read_prompts,
)
from litseq.errors import DataError

PAIRS = (["a dog", "a cat"], ["ein Hund", "eine Katze"])


def write(path, content):
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.suffix.lower() == ".gz" else content)
    return str(path)


def pairs(paths, file_format="auto", policy="raise", **fields):
    bad = BadLines(policy)
    columns = read_pairs(paths, file_format, PairFields(**fields), bad)
    bad.finish()
    return columns


@pytest.mark.parametrize("ending", ["", ".gz", ".GZ"])
def test_every_format_gives_the_same_pairs(tmp_path, ending):
    tsv = write(tmp_path / f"a.tsv{ending}", "a dog\tein Hund\tsomebody\r\na cat\t eine Katze \r\n")
    other = write(tmp_path / f"a.txt{ending}", "a dog\tein Hund\na cat\teine Katze")
    records = [{"target": t, "source": s, "id": 1} for s, t in zip(*PAIRS, strict=True)]
    jsonl = write(tmp_path / f"a.jsonl{ending}", "\n".join(map(json.dumps, records)))
    source = write(tmp_path / f"a.en{ending}", "a dog\na cat\n")
    target = write(tmp_path / f"a.de{ending}", "\ufeffein Hund\neine Katze")
    assert pairs(tsv) == pairs(other, "tsv") == pairs(jsonl) == pairs([source, target]) == PAIRS
    assert pairs((source, target)) == pairs([[source, target]]) == PAIRS
    twice = tuple(column * 2 for column in PAIRS)
    assert pairs([tsv, jsonl]) == pairs([[source, target], tsv]) == twice


def test_columns_and_fields_can_be_named(tmp_path):
    tsv = write(tmp_path / "a.tsv", "1\tein Hund\ta dog\n2\teine Katze\ta cat\n")
    assert pairs(tsv, source_column=2, target_column=1) == PAIRS
    jsonl = write(tmp_path / "a.jsonl", '{"de": "ein Hund", "en": "a dog"}\n{"de": "eine Katze", "en": "a cat"}\n')
    assert pairs(jsonl, source_field="en", target_field="de") == PAIRS


def test_only_a_line_feed_ends_a_line(tmp_path):
    source = write(tmp_path / "a.en", "one\u2028two\x0cthree\x85four\n")
    target = write(tmp_path / "a.de", "eins\n")
    assert pairs([source, target]) == (["one\u2028two\x0cthree\x85four"], ["eins"])


def test_blank_lines_at_the_end_are_no_pairs(tmp_path):
    record = json.dumps({"source": "a dog", "target": "ein Hund"})
    for name, line in (("a.tsv", "a dog\tein Hund"), ("a.jsonl", record)):
        assert pairs(write(tmp_path / name, f"{line}\n{line}\r\n\r\n \n\n")) == (["a dog"] * 2, ["ein Hund"] * 2)
        with pytest.raises(DataError, match=r"1 bad line: .* line 2"):
            pairs(write(tmp_path / name, f"{line}\n\n{line}\n\n"))


def test_bad_lines_are_named_with_file_and_line(tmp_path):
    path = write(tmp_path / "a.tsv", b"a\tb\nno tab here\na\xff\tb\n\tb\na\t  \n\nok\tfine\n")
    with pytest.raises(DataError) as caught:
        pairs(path)
    message = str(caught.value)
    assert message.startswith("5 bad lines: ")
    assert "\n" not in message
    for part in ("line 2: no tab", "line 3: invalid UTF-8 at byte 2 (0xff)", "line 4: empty source"):
        assert f"{path} {part}" in message
    assert "line 5: empty target" in message
    assert "line 6: no tab" in message
    assert "on_bad_line='skip'" in message


def test_bad_lines_can_be_left_out(tmp_path):
    path = write(tmp_path / "a.tsv", "a dog\tein Hund\nno tab\na cat\teine Katze\n")
    with pytest.warns(UserWarning, match=r"left out 1 bad line: .*a\.tsv line 2: no tab"):
        assert pairs(path, policy="skip") == PAIRS


def test_the_first_ten_are_shown_and_the_rest_counted(tmp_path):
    path = write(tmp_path / "a.tsv", "no tab\n" * 25)
    with pytest.raises(DataError, match=r"^25 bad lines: .*line 10: no tab; and 15 more\.") as caught:
        pairs(path)
    assert "line 11" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"source": "a", "target": "b"', "broken JSON"),
        ("[1]", "a JSON list, expected an object with 'source', 'target'"),
        ('{"source": "a", "tgt": "b"}', "no field 'target', found 'source', 'tgt'"),
        ('{"source": "a", "target": 3}', "field 'target' is a JSON int, expected text"),
        ('{"source": "", "target": "b"}', "empty source"),
        ('{"source": "\\ud800", "target": "b"}', "half of a surrogate pair"),
        ("[" * 100_000, "broken JSON"),
    ],
)
def test_bad_json_lines_say_what_is_wrong(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", f'{{"source": "a", "target": "b"}}\n{line}\n')
    with pytest.raises(DataError) as caught:
        pairs(path)
    assert f"{path} line 2: " in str(caught.value)
    assert reason in str(caught.value)


def test_columns_that_are_missing_are_counted(tmp_path):
    path = write(tmp_path / "a.tsv", "a\tb\n")
    with pytest.raises(DataError, match="line 1: 2 columns, expected at least 3"):
        pairs(path, target_column=2)


def test_aligned_files_of_different_length_name_both(tmp_path):
    source, target = write(tmp_path / "a.en", "1\n2\n3\n"), write(tmp_path / "a.de", "1\n2\n")
    with pytest.raises(DataError, match=r"a\.en has 3 lines, .*a\.de has 2"):
        pairs([source, target], policy="skip")


def test_an_empty_side_of_aligned_files_is_a_bad_line(tmp_path):
    source, target = write(tmp_path / "a.en", "1\n\n3\n"), write(tmp_path / "a.de", "1\n2\n3\n")
    with pytest.raises(DataError, match=r"a\.en \+ .*a\.de line 2: empty source"):
        pairs([source, target])


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_damaged_files_are_one_clear_line_whatever_the_policy(tmp_path, policy):
    packed = gzip.compress(b"a\tb\n" * 1000)
    cases = {
        "missing.tsv": (None, "cannot be read .No such file"),
        "empty.tsv": (b"", "the file is empty"),
        "empty.tsv.gz": (b"", "the file is empty"),
        "nothing.tsv.gz": (gzip.compress(b""), "the file is empty"),
        "cut.tsv.gz": (packed[:-20], "the gzip file is truncated"),
        "start.tsv.gz": (packed[:5], "the gzip file is truncated"),
        "plain.tsv.gz": (b"a\tb\n", "not a sound gzip file"),
        "flipped.tsv.gz": (packed[:-6] + b"XX" + packed[-4:], "not a sound gzip file"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            pairs(str(tmp_path / name), policy=policy)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="Is a directory"):
        pairs(str(tmp_path), "tsv")


def test_a_file_of_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(DataError, match=r"expected a \.tsv or \.jsonl file"):
        pair_sources("train.txt", "auto")
    with pytest.raises(DataError, match=r"`datasets` reads this one: \{dataset: train\.csv\}"):
        pair_sources("train.csv", "auto")
    with pytest.raises(DataError, match="got 3 files"):
        pair_sources([["a", "b", "c"]], "auto")
    with pytest.raises(DataError, match="an empty list"):
        pair_sources([], "auto")
    with pytest.raises(ValueError, match="format='csv' is unknown"):
        pair_sources("train.csv", "csv")


def test_prompts_are_sources_alone(tmp_path):
    plain = write(tmp_path / "a.txt", "one\n two \n")
    tsv = write(tmp_path / "a.tsv", "one\teins\ntwo\n")
    jsonl = write(tmp_path / "a.jsonl", '{"source": "one"}\n{"source": "two", "target": "zwei"}\n')
    for path in (plain, tsv, jsonl):
        assert read_prompts(path, "auto", PairFields(), BadLines("raise")) == ["one", "two"]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("line", ["one", " two", "three"]),
        ("blank", ["one\n two", "three"]),
        ("file", ["one\n two\n\n  \nthree"]),
    ],
)
def test_documents_of_plain_text(tmp_path, documents, expected):
    path = write(tmp_path / "a.txt", "one\r\n two\n\n  \nthree\n")
    assert read_documents(path, documents, "text", BadLines("raise")) == expected
    assert read_documents([path, path], documents, "text", BadLines("raise")) == expected * 2


def test_documents_of_json_lines_and_their_faults(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", '{"body": "one\\ntwo"}\n{"body": " "}\n{}\n')
    bad = BadLines("raise")
    assert read_documents(path, "line", "body", bad) == ["one\ntwo"]
    with pytest.raises(DataError, match=r"2 bad lines: .*line 2: empty text; .*line 3: no field 'body', found none"):
        bad.finish()


def test_invalid_text_in_documents_is_named(tmp_path):
    path = write(tmp_path / "a.txt", b"one\n\xc3\x28\n")
    bad = BadLines("raise")
    assert read_documents(path, "blank", "text", bad) == ["one"]
    with pytest.raises(DataError, match="line 2: invalid UTF-8 at byte 1"):
        bad.finish()


def test_paths_become_plain(tmp_path):
    assert plain_paths([tmp_path, ("a", tmp_path)]) == [str(tmp_path), ("a", str(tmp_path))]
    assert flat_paths([["a", "b"], "c"]) == ["a", "b", "c"]
    assert flat_paths(None) == []


def test_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="on_bad_line='ignore' is unknown"):
        BadLines("ignore")


def test_facts_identify_a_file(tmp_path):
    # sha256 of "abc", from FIPS 180-2.
    path = write(tmp_path / "a.txt", "abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_facts(path) == {"name": "a.txt", "bytes": 3, "sha256": expected}
    assert read_lines(path) == [b"abc"]
