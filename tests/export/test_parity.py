"""The parity check itself: it must notice what it is there to notice."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from export.small import small_module, small_tokenizer, small_translator
from litseq.bundle import open_bundle
from litseq.export import export_bundle
from litseq.export.graphs import TRACE_CAPACITY, TRACE_NEW, TRACE_PAST, TRACE_ROWS, TRACE_SOURCE
from litseq.export.parity import CASES, GraphRunner, check_parity
from litseq.export.reference import Reference, Row, compare_logits


def test_the_cases_are_not_the_traced_shapes() -> None:
    rows = {len(shapes) for _, shapes, _ in CASES}
    sources = {max(s for s, _ in shapes) for _, shapes, _ in CASES}
    chunks = {chunk for _, _, chunks in CASES for chunk in chunks}
    assert TRACE_ROWS not in rows
    assert TRACE_SOURCE not in sources
    assert TRACE_NEW not in chunks
    assert 1 in rows
    assert {TRACE_CAPACITY, TRACE_PAST}.isdisjoint(sources)
    assert any(chunks[0] > 1 and chunks[1] > 1 for _, _, chunks in CASES)  # a past under more than one token


@pytest.fixture(scope="module")
def translator_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundles") / "b"
    export_bundle(small_translator(), small_tokenizer(), directory)
    return directory


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_changed_weight_is_noticed(part: str, translator_bundle: Path) -> None:
    module = small_translator()
    next(getattr(module, part).layers[1].feed_forward.parameters()).data[0] += 0.5
    runner = GraphRunner(translator_bundle, open_bundle(translator_bundle).manifest)
    report = check_parity(Reference(module.decoder, module.encoder, prefix=False), runner, 1e-4)
    assert not report.passed
    assert report.max_error > 1e-3
    assert report.to_dict()["passed"] is False


def test_a_cache_that_forgets_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_module()
    export_bundle(module, small_tokenizer(), tmp_path / "b")
    runner = GraphRunner(tmp_path / "b", open_bundle(tmp_path / "b").manifest)
    call = GraphRunner._call

    def forgetful(self: GraphRunner, *args: object) -> object:
        cache = args[5]
        next(iter(cache.values()))[:] = 0  # the keys of the first layer are lost
        return call(self, *args)

    monkeypatch.setattr(GraphRunner, "_call", forgetful)
    assert not check_parity(Reference(module.decoder, None, prefix=False), runner, 1e-4).passed


def test_not_a_number_does_not_pass() -> None:
    class Broken:
        manifest = dataclasses.make_dataclass("M", ["prompt_pass", "model"])(
            "chunks", dataclasses.make_dataclass("N", ["vocab_size", "max_seq_len"])(60, 40)
        )

        def logits(self, rows: list[Row], *_: object) -> list[np.ndarray]:
            return [np.full((len(row.tokens), 60), np.nan, np.float32) for row in rows]

    report = check_parity(Reference(small_module().decoder, None, prefix=False), Broken(), 1e-4)
    assert not report.passed


@pytest.mark.parametrize("mask", [-1e9, -np.inf])
def test_a_masked_token_hides_no_error(mask: float) -> None:
    expected = np.random.default_rng(0).normal(0, 2, (4, 60)).astype(np.float32)
    expected[:, 7] = mask
    assert compare_logits(expected, expected)[0] == 0
    assert compare_logits(expected, expected)[1] == pytest.approx(2, abs=0.5)
    found = expected.copy()
    found[2, 9] += 0.1
    assert compare_logits(expected, found)[0] == pytest.approx(0.05, abs=0.02)
    for wrong in (0.0, np.nan):  # what is masked must stay so
        found = expected.copy()
        found[1, 7] = wrong
        assert compare_logits(expected, found)[0] > 100
