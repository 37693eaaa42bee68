"""What quantising measures is what the bundle says when it runs."""

import numpy as np
import onnx_ir as ir
import pytest

from litseq.bundle import open_bundle
from litseq.quantize.linears import find_linears
from litseq.quantize.runner import Row, Runner
from litseq.runtime import Generator

PROMPT, TARGET = [5, 6, 7, 8], [9, 10, 11, 12, 13]


@pytest.mark.parametrize("name", ["exported-decoder-only", "exported-prefix-lm", "exported-encoder-decoder"])
def test_a_row_is_read_as_the_generator_reads_it(pytestconfig, name):
    bundle = open_bundle(pytestconfig.rootpath / "tests" / "fixtures" / name)
    (scored,) = Generator(bundle, threads=1).score([PROMPT], [TARGET])
    if bundle.manifest.encoder is None:
        row = Row(None, (*PROMPT, *TARGET), len(PROMPT))
    else:
        start = bundle.manifest.prompt_format["start_ids"]
        row = Row(tuple(PROMPT), (*start, *TARGET), len(start))
    logits, _ = Runner(bundle.path, bundle.manifest, 1).run(row)
    assert len(logits) == len(row.tokens)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = [log_probs[row.prompt - 1 + i, token] for i, token in enumerate(TARGET)]
    np.testing.assert_allclose(found, scored.logprobs, atol=1e-5)


def test_inner_values_are_those_of_all_positions(pytestconfig, tmp_path):
    bundle = open_bundle(pytestconfig.rootpath / "tests" / "fixtures" / "exported-prefix-lm")
    file = bundle.manifest.decoder.file
    name = str(next(find_linears(ir.load(bundle.file(file)))).activation.name)
    runner = Runner(bundle.path, bundle.manifest, 1, {file: [name]}, tmp_path)
    _, inside = runner.run(Row(None, (*PROMPT, *TARGET), len(PROMPT)))
    assert inside[file, name].shape[0] == len(PROMPT) + len(TARGET)
