import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from litseq.bench import BenchResult, Limits, Point
from litseq.bench.plot import draw

POINTS = [
    Point(b, n, 8, 0.1, None, b * n / 0.1, 0.5, 0.01, b / 0.01, 0.8 / b, "memory")
    for n in (32, 512)
    for b in (1, 8, 32)
]
RESULT = BenchResult(
    "bundle <&>\x1b", "decoder-only", Limits(2, 3e10, 2e11, 7e11), 10**8, 4096, POINTS, "a CPU", {"litseq": "1"}
)


def texts(svg):
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]


def test_every_line_has_its_name_and_its_limit():
    svg = draw(RESULT)
    shown = texts(svg)
    for words in ("prompt of 32", "prompt of 512", "batch 1", "batch 8", "batch 32", "bundle <&> "):
        assert words in shown
    assert svg.count("stroke-dasharray") == 5


def test_places_are_inside_the_picture():
    for node in ET.fromstring(draw(RESULT)).iter():
        if node.tag.endswith("circle"):
            assert 0 < float(node.get("cx")) < 1000
            assert 0 < float(node.get("cy")) < 470


@pytest.mark.parametrize("kept", [slice(0, 1), slice(0, 2)])
def test_a_single_point_can_be_drawn(kept):
    assert "prompt of 32" in texts(draw(replace(RESULT, points=POINTS[kept])))
