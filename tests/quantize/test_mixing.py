import math

import numpy as np
import pytest

from litseq.bundle import open_bundle
from litseq.cli import main as cli
from litseq.errors import UsageError
from litseq.quantize import QuantizeOptions, quantize_bundle
from litseq.quantize.mixing import LADDER, raised, relative_error, smallest_share
from litseq.quantize.report import loss_rise
from litseq.quantize.rounding import round_to_nearest
from litseq.quantize.runner import Row, Runner
from litseq.runtime import Generator

RANDOM = np.random.default_rng(0)


def test_relative_error_is_that_of_the_products():
    matrix, inputs = RANDOM.normal(size=(24, 32)).astype(np.float32), RANDOM.normal(size=(500, 32)).astype(np.float32)
    quantised = round_to_nearest("w", matrix, 4, 32)
    exact, found = inputs @ matrix.T, inputs @ quantised.dequantized().T
    expected = np.square(found - exact).sum() / np.square(exact).sum()
    assert relative_error(matrix, quantised, inputs.T @ inputs) == pytest.approx(expected, rel=1e-3)
    assert relative_error(matrix, quantised) == pytest.approx(expected, rel=0.3)  # inputs without preference
    assert relative_error(np.zeros_like(matrix), round_to_nearest("w", np.zeros_like(matrix), 4, 32)) == 0


def test_the_worst_are_raised_first():
    errors, sizes = {"a": 0.1, "b": 0.3, "c": 0.2}, {"a": 10, "b": 20, "c": 70}
    assert raised(errors, sizes, 0.0) == set()
    assert raised(errors, sizes, 0.1) == {"b"}
    assert raised(errors, sizes, 0.5) == {"b", "c"}
    assert raised(errors, sizes, 1.0) == {"a", "b", "c"}


@pytest.mark.parametrize("needed", [*LADDER, 2.0])
def test_bisection_finds_what_a_walk_along_the_ladder_finds(needed):
    asked = []

    def rise_of(share):
        asked.append(share)
        return 0.0 if share >= needed else 1.0

    walked = next((share for share in LADDER if share >= needed), LADDER[-1])
    assert smallest_share(rise_of, 0.5) == walked
    assert len(asked) <= 5


def test_a_bundle_keeps_the_limit(pytestconfig, tmp_path):
    source = pytestconfig.rootpath / "tests" / "fixtures" / "exported-decoder-only"

    def make(name, limit):
        options = QuantizeOptions("int4", threads=1, compensate=False, max_loss=limit)
        return quantize_bundle(source, tmp_path / name, options)

    every = make("every", math.inf)
    some = make("some", 0.6 * every.kl)
    none = make("none", 1e-9)
    assert every.kept_at_8_bits == 0
    assert 0 < some.kept_at_8_bits < 1
    assert none.kept_at_8_bits == 1  # as good as it gets
    assert some.kl < 0.8 * every.kl  # on other texts than those it was tried on
    assert none.bytes_after > some.bytes_after > every.bytes_after
    assert open_bundle(tmp_path / "some").manifest.quantization["report"]["kept_at_8_bits"] == some.kept_at_8_bits
    assert "kept at 8 bits" in (tmp_path / "some" / "card.md").read_text()


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_is_above_zero(limit):
    with pytest.raises(UsageError, match="max_loss"):
        QuantizeOptions("int4", max_loss=limit)


def test_int8_takes_no_limit(pytestconfig, tmp_path, capsys):
    source = pytestconfig.rootpath / "tests" / "fixtures" / "exported-decoder-only"
    assert cli.main(["quantize", str(source), str(tmp_path / "o"), "--to", "int8", "--max-loss", "0.1"]) == 2
    assert "--max-loss" in capsys.readouterr().err


def test_the_rise_of_given_texts_is_that_of_their_own_tokens(pytestconfig, tmp_path):
    source = open_bundle(pytestconfig.rootpath / "tests" / "fixtures" / "exported-decoder-only")
    quantize_bundle(
        source.path, tmp_path / "o", QuantizeOptions("int4", threads=1, compensate=False, max_loss=math.inf)
    )
    after = open_bundle(tmp_path / "o")
    rows = [Row(None, (5, 6, 7, 8, 9), 1), Row(None, (11, 12, 13), 2)]
    runners = [Runner(bundle.path, bundle.manifest, 1) for bundle in (source, after)]
    targets = [list(row.tokens[row.prompt :]) for row in rows]
    scores = [
        Generator(bundle, threads=1).score([list(row.tokens[: row.prompt]) for row in rows], targets)
        for bundle in (source, after)
    ]
    expected = sum(a.score - b.score for a, b in zip(*scores, strict=True)) / sum(map(len, targets))
    assert loss_rise(*runners, rows, given=True) == pytest.approx(expected, abs=1e-4)
    assert loss_rise(*runners, rows, given=False) > 0
