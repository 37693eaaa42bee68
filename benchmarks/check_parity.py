"""Parity on real text: does a bundle generate what its checkpoint generates in torch, token for token?

    python benchmarks/check_parity.py CHECKPOINT BUNDLE FILE [--sentences 500]

torch reads every sequence anew at every step, without a cache; onnxruntime runs the bundle with batches of 1 and of 32.
The logits of every generated position are compared as well.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from litseq.bundle import open_bundle
from litseq.export.parity import GraphRunner
from litseq.export.reference import Reference, Row
from litseq.models import SequenceModule, load_module
from litseq.models.predict import generate_ids
from litseq.runtime import Generator
from litseq.text import PromptFormat, Tokenizer

GROUP = 32


def read_sources(path: Path, count: int) -> list[str]:
    """The first column of the first lines of a text or TSV file, plain or `.gz`."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t")[0] for _, line in zip(range(count), file, strict=False)]


def rows_of(
    module: SequenceModule, form: PromptFormat, prompts: list[list[int]], outputs: list[list[int]]
) -> Iterator[Row]:
    """What was generated, as rows to compare logits on; the last token of a row that is full was never read."""
    limit = int(module.hparams["max_seq_len"])
    for prompt, output in zip(prompts, outputs, strict=True):
        if module.architecture == "encoder-decoder":
            yield Row(tuple(prompt), form.start_ids, tuple(output[: limit - len(form.start_ids)]))
        else:
            yield Row(None, tuple(prompt), tuple(output[: limit - len(prompt)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sentences", type=int, default=500)
    args = parser.parse_args()

    module = load_module(args.checkpoint)
    tokenizer = module.record.load_tokenizer()
    assert isinstance(tokenizer, Tokenizer)
    form = PromptFormat.from_dict(module.record.prompt_format or {})
    sources = read_sources(args.file, args.sentences)
    prompts = [form.render(tokenizer.encode(source)) for source in sources]
    expected: list[list[int]] = []
    for start in range(0, len(prompts), GROUP):
        expected += generate_ids(module, prompts[start : start + GROUP])
    report: dict[str, object] = {"sentences": len(sources), "tokens": sum(map(len, expected))}
    generator = Generator.from_bundle(args.bundle)
    for size in (1, GROUP):
        found = [list(c.token_ids) for c in generator.generate(sources, batch_size=size)]
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        report[f"equal at batch {size}"] = f"{same} of {len(sources)}"

    runner = GraphRunner(args.bundle, open_bundle(args.bundle).manifest)
    prefix = bool(getattr(module, "prefix_lm", False))
    reference = Reference(module.decoder, getattr(module, "encoder", None), prefix)
    rows = list(rows_of(module, form, prompts, expected))
    largest = 0.0
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        steps = (max(len(row.prompt) for row in group), *(1 for _ in range(max(len(r.tokens) for r in group))))
        for row, ours in zip(group, runner.logits(group, steps, prefix), strict=True):
            largest = max(largest, float(np.abs(reference.logits(row)[-len(ours) :] - ours).max()))
    report["largest difference of a logit"] = largest
    report["torch"] = torch.__version__
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
