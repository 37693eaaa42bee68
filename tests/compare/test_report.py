"""The report stands alone, and is well formed."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from compare.made_up import results
from litseq.compare.charts import Series, line_chart, ticks
from litseq.compare.recommend import recommend
from litseq.compare.report import write_report

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.urls = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.urls += [value for name, value in attributes if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    case = results(3.0, 1.0, [3.0, 2.9, 3.1], 0.5)
    case["recommendation"] = recommend(case)
    write_report(case, out)
    return {path.name: path.read_text() for path in out.iterdir()}


def test_html_needs_nothing_else(files):
    page = files["report.html"]
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.urls == []
    assert not {"script", "link", "img", "iframe"} & set(checker.tags)
    assert not re.search(r"https?:|url\(|@import", page)
    assert checker.tags.count("svg") >= 7
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_results_of_a_training_that_came_apart_are_json(tmp_path):
    case = results(3.0, 1.0, [3.0], 0.5)
    case["arms"]["a"]["seeds"]["1"]["training"]["curve"][-1]["val/loss"] = float("nan")
    case["recommendation"] = recommend(case)
    write_report(case, tmp_path)

    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert read["arms"]["a"]["seeds"]["1"]["training"]["curve"][-1]["val/loss"] is None
    assert read["arms"]["a"]["seeds"]["1"]["training"]["curve"][0]["val/loss"] == 5.0


def test_every_chart_is_xml(files):
    for svg in re.findall(r"<svg.*?</svg>", files["report.html"], re.S):
        root = ElementTree.fromstring(svg)
        numbers = re.findall(r"nan|inf", svg)
        assert not numbers
        assert root.get("viewBox")


def test_both_say_what_was_found(files):
    assert set(files) == {"report.html", "report.md", "results.json"}
    page = re.sub("<small>", " ", files["report.html"])
    for part in ("BLEU", "40.00 [39.00, 41.00]", "+3.00 [+2.00, +4.00]", "confidence: high", "10,000"):
        assert part in page
        assert part in files["report.md"]
    assert "Made up &amp; &lt;odd&gt;" in files["report.html"]


def test_a_text_from_right_to_left_is_set_so(files):
    assert re.search(r'<dd class="" dir=auto>a &lt;b&gt; &amp; c</dd>', files["report.html"])


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.21) == pytest.approx([0.14, 0.16, 0.18, 0.2])
    assert ticks(3, 3) == [3]
    assert line_chart([Series("a", 0, [])], "x", "y", "t") == ""
