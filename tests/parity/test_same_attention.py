"""One attention serves every use: equal to the definition to 1e-6, at the count of operations of the formula."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "same_attention.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("same_attention", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["same_attention"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["same_attention"]


def test_every_use_is_the_definition_at_the_same_cost(script):
    uses = script.measure()
    assert len(uses) == 6
    for use in uses:
        assert use.error < 1e-6, use.name
        assert use.counted in (use.formula, None), use.name
    assert sum(use.counted is not None for use in uses) == 5
    assert len({use.formula for use in uses}) == 1


def test_the_page_shows_every_use(script):
    page = (ROOT / "docs" / "experiments" / "same-attention.md").read_text()
    for use in script.measure():
        assert f"| {use.name} | {use.used_by} | {use.mask} | {use.keys} |" in page
        assert f"| {use.formula:,} |" in page
