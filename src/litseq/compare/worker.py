"""The process of one run: `python -m litseq.compare.worker DIRECTORY` trains, exports, generates and scores.

It leaves `result.json`, or `failed.json` with one line that says why.
"""

import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from litseq.compare.files import (
    BUNDLE,
    FAILED,
    OUTPUTS,
    PLAN,
    PROMPTS,
    RESULT,
    peak_bytes,
    read_json,
    write_json,
    write_progress,
)
from litseq.compare.processes import end_with_parent

_CHUNK = 64
_SHOWN = 24
"""Texts continued to be looked at, where nothing generated can be right or wrong."""
_TIMED = 200
_TRAINING = "training.json"


def work(directory: Path) -> None:
    """Do what is left of a run."""
    from litseq.compare.train import train, trained

    plan = read_json(directory / PLAN)
    training = trained(directory)
    if training is None:
        write_progress(directory, "training", 0.0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # its advice for larger jobs; nobody reads it here
            training = train(plan, directory)
        training["peak_bytes"] = peak_bytes()
        write_json(directory / _TRAINING, training)
    export = _export(directory, Path(training["checkpoint"]))
    answers = _answer(plan, directory)
    write_json(directory / OUTPUTS, answers)
    write_json(directory / RESULT, {"training": training, "export": export})
    if not plan["keep_checkpoints"]:
        for file in (directory / "checkpoints").glob("*.ckpt"):
            if file.resolve() != Path(training["checkpoint"]).resolve():  # the trainer's paths are absolute
                file.unlink()


def _export(directory: Path, checkpoint: Path) -> dict[str, Any]:
    from litseq.export import export_bundle
    from litseq.models import load_module

    write_progress(directory, "exporting", 0.0)
    module = load_module(checkpoint)
    tokenizer = module.record.load_tokenizer()
    assert tokenizer is not None  # every data module has one
    start = time.perf_counter()
    shutil.rmtree(directory / BUNDLE, ignore_errors=True)
    report = export_bundle(module, tokenizer, directory / BUNDLE)
    return {
        "seconds": time.perf_counter() - start,
        "bytes": sum(file.stat().st_size for file in (directory / BUNDLE).iterdir()),
        "parity_max_error": report.max_error,
        "parity_token_agreement": report.token_agreement,
    }


def _answer(plan: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Outputs and likelihoods of every test set."""
    import torch

    from litseq.compare.building import build_data, build_module
    from litseq.compare.items import read_items
    from litseq.compare.train import attach
    from litseq.runtime import Generator
    from litseq.runtime.sessions import default_threads

    data = build_data(plan["data"]["class_path"], plan["data"]["init_args"])
    attach(build_module(plan["class_path"], plan["init_args"]), data)
    # torch knows how many are this run's, where several run at a time.
    threads = plan["threads"] or min(default_threads(), torch.get_num_threads())
    generator = Generator.from_bundle(directory / BUNDLE, threads=threads)
    answers = {}
    for number, (name, paths) in enumerate(plan["tests"].items()):
        items = read_items(data, paths, plan["max_length"])
        if not number:
            longest = plan["max_length"] // 2 + len(data.prompt_format.render([]))
            write_json(directory / PROMPTS, _spread(items.prompts, longest))
        shown = range(len(items.texts) if items.generated else min(_SHOWN, len(items.texts)))
        room = generator.manifest.model.max_seq_len
        fits = [i for i in shown if len(items.prompts[i]) < room]
        outputs = [""] * len(shown)
        options = plan["generation"] if items.generated else {"max_new_tokens": 48} | plan["generation"]
        start, count = time.perf_counter(), 0
        for first in range(0, len(fits), _CHUNK):
            write_progress(directory, "generating", (number + first / len(fits)) / len(plan["tests"]))
            chunk = fits[first : first + _CHUNK]
            for i, completion in zip(
                chunk, generator.generate([items.prompts[i] for i in chunk], **options), strict=True
            ):
                outputs[i] = completion.text
                count += len(completion.token_ids)
        seconds = time.perf_counter() - start
        nats, tokens = _likelihood(generator, items, room)
        answers[name] = {
            "texts": items.texts,
            "references": items.references,
            "groups": items.groups,
            "generated": items.generated,
            "outputs": outputs,
            "nats": nats,
            "tokens": tokens,
            "too_long": len(shown) - len(fits),
            "seconds": seconds,
            "generated_tokens": count,
        }
    return answers


def _spread(prompts: list[list[int]], longest: int) -> dict[int, list[int]]:
    """Prompts to time, by item: evenly from the whole test set, those that leave room for an answer."""
    step = max(1, len(prompts) // _TIMED)
    fits = {i: prompts[i] for i in range(0, len(prompts), step) if len(prompts[i]) <= longest}
    return fits or {0: prompts[0][:longest]}


def _likelihood(generator: Any, items: Any, room: int) -> tuple[list[float], list[int]]:
    """The negative log-likelihood of every reference in nats, and its tokens; nothing for one that is too long."""
    has_encoder = generator.manifest.architecture == "encoder-decoder"
    nats, tokens = [0.0] * len(items.prompts), [0] * len(items.prompts)
    ids = range(len(items.prompts))
    used = [0 if has_encoder else len(items.prompts[i]) for i in ids]
    fits = [i for i in ids if len(items.prompts[i]) <= room and used[i] + len(items.targets[i]) <= room]
    scores = generator.score([items.prompts[i] for i in fits], [items.targets[i] for i in fits])
    for i, score in zip(fits, scores, strict=True):
        nats[i], tokens[i] = -score.score, len(items.targets[i])
    return nats, tokens


def main(directory: Path) -> int:
    """Run, and leave one line behind when it fails."""
    end_with_parent()
    (directory / FAILED).unlink(missing_ok=True)
    try:
        work(directory)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        known = type(error).__module__ == "litseq.errors"
        write_json(directory / FAILED, {"reason": reason[:400] if known else f"{type(error).__name__}: {reason[:400]}"})
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
