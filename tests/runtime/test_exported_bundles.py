"""Bundles that `export_bundle` wrote at format version 1 give, without torch, the tokens torch gave."""

import json
from pathlib import Path

import pytest

from litseq.runtime import Generator

FIXTURES = Path(__file__).parent.parent / "fixtures"
EXPECTED = json.loads((FIXTURES / "exported.json").read_text())


@pytest.mark.parametrize("name", EXPECTED["tokens"])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_tokens_are_those_of_torch(name: str, batch_size: int) -> None:
    generator = Generator.from_bundle(FIXTURES / name, threads=1)
    expected = EXPECTED["tokens"][name]
    found = generator.generate(list(expected), batch_size=batch_size, **EXPECTED["options"])
    assert [list(completion.token_ids) for completion in found] == list(expected.values())
