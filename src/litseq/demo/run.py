"""The demo from its first number to its table."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import Progress
from sacrebleu.metrics import CHRF

from litseq.data import PairDataModule
from litseq.demo.gallery import show_gallery
from litseq.demo.number_words import NumberPairs, draw_numbers, write_number_pairs
from litseq.demo.report import ArchitectureResult, print_report, write_results
from litseq.demo.settings import DemoSettings
from litseq.demo.staging import staged_directory
from litseq.export import export_bundle
from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.models.predict import generate_ids
from litseq.runtime import Generator

_CHUNK = 128
"""Test numbers between two movements of the progress bar; four times the rows that are generated together."""


def run_demo(
    settings: DemoSettings,
    out: Path | None = None,
    *,
    force: bool = False,
    gallery: Path | None = None,
    console: Console | None = None,
) -> list[ArchitectureResult]:
    """Train, export, verify and measure both architectures, and print the table.

    Args:
        settings: The sizes.
        out: Where the two bundles and results.json stay; `None` keeps nothing.
        force: Replace `out` when it is an earlier demo's.
        gallery: Trained bundles that say something at the end; `None` ends without them.
        console: Where to print; `None` is standard output.
    """
    console = console or Console()
    with staged_directory(out, force=force) as directory:
        pairs = _make_pairs(settings, directory, console)
        # One data module for both: it makes the batches that the model of the trainer asks for.
        data = PairDataModule(
            train=str(pairs.train),
            val=str(pairs.val),
            vocab_size=settings.vocab_size,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
        results = []
        for build in (build_encoder_decoder, build_decoder_only):
            lightning.seed_everything(settings.seed, verbose=False)
            module = build(settings, data.vocab_size)
            seconds = _train(module, data, settings, console)
            results.append(_measure(module, data, seconds, pairs, directory, console))
        for file in (pairs.train, pairs.val, pairs.test):
            file.unlink()
        write_results(results, directory, (out or directory).resolve())
    print_report(console, results, pairs.test_pairs)
    if out is not None:
        console.print(f"Both bundles and results.json are in {out}. Try one:", soft_wrap=True)
        for result in results:
            console.print(
                f"  litseq generate {out / result.architecture} 'forty-two thousand and seven'", soft_wrap=True
            )
    if gallery is not None:
        show_gallery(gallery, console)
    return results


def build_encoder_decoder(settings: DemoSettings, vocab_size: int) -> EncoderDecoder:
    """The encoder-decoder of the demo."""
    return EncoderDecoder(num_layers=settings.encoder_decoder_layers, **_options(settings, vocab_size))


def build_decoder_only(settings: DemoSettings, vocab_size: int) -> DecoderOnly:
    """The decoder-only model of the demo, of the same weight."""
    return DecoderOnly(num_layers=settings.decoder_only_layers, **_options(settings, vocab_size))


def _options(settings: DemoSettings, vocab_size: int) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "embed_dim": settings.embed_dim,
        "num_heads": settings.num_heads,
        "max_seq_len": settings.max_seq_len,
        "dropout": 0.0,  # there is one right answer, and every example is seen once or twice
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup_steps,
        "schedule": "cosine",
    }


def _make_pairs(settings: DemoSettings, directory: Path, console: Console) -> NumberPairs:
    count = settings.train_pairs + settings.val_pairs + settings.test_pairs
    # Not rich's track(): when its consumer is interrupted, it goes on holding the terminal.
    with Progress(console=console) as progress:
        numbers = progress.track(draw_numbers(count, settings.seed), description=f"Spelling {count:,} numbers")
        return write_number_pairs(directory, numbers, val=settings.val_pairs, test=settings.test_pairs)


def _train(module: SequenceModule, data: PairDataModule, settings: DemoSettings, console: Console) -> float:
    console.rule(f"{module.architecture}: {_parameters(module):,} parameters")
    with _without_advice():
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=settings.epochs,
            gradient_clip_val=1.0,
            callbacks=[RichProgressBar()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        try:
            trainer.fit(module, data)
        except SystemExit as exit_:
            # What Lightning makes of Ctrl-C; the demo has no more use for what was trained so far.
            if exit_.code == 1 and trainer.interrupted:
                raise KeyboardInterrupt from exit_
            raise
        return time.perf_counter() - start


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence what Lightning recommends for larger jobs: loader workers, loggers, packages to install."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        log.setLevel(level)


def _measure(
    module: SequenceModule,
    data: PairDataModule,
    training_seconds: float,
    pairs: NumberPairs,
    directory: Path,
    console: Console,
) -> ArchitectureResult:
    bundle = directory / module.architecture
    module.eval()
    with console.status(f"Exporting {module.architecture} and verifying it against torch"):
        export_bundle(module, data.tokenizer, bundle)
    generator = Generator.from_bundle(bundle)
    sources = [english for english, _ in pairs.test_pairs]
    references = [german for _, german in pairs.test_pairs]

    def run_onnxruntime(chunk: Sequence[str]) -> list[list[int]]:
        return [completion.token_ids for completion in generator.generate(chunk)]

    def run_torch(chunk: Sequence[str]) -> list[list[int]]:
        return generate_ids(module, [data.prompt_format.render(data.tokenizer.encode(text)) for text in chunk])

    ids, onnxruntime_speed = _generate(run_onnxruntime, sources, "Generating with onnxruntime", console)
    torch_ids, torch_speed = _generate(run_torch, sources, "Generating with torch, to compare", console)
    outputs = [data.tokenizer.decode(row) for row in ids]
    return ArchitectureResult(
        architecture=module.architecture,
        parameters=_parameters(module),
        training_seconds=training_seconds,
        exact_match=_share_equal(outputs, references),
        chrf=CHRF().corpus_score(outputs, [references]).score,
        onnx_bytes=sum(file.stat().st_size for file in bundle.iterdir() if file.suffix in (".onnx", ".data")),
        parity=_share_equal(ids, torch_ids),
        tokens_per_second_torch=torch_speed,
        tokens_per_second_onnxruntime=onnxruntime_speed,
        outputs=outputs,
    )


def _generate(
    run: Callable[[Sequence[str]], list[list[int]]], sources: Sequence[str], title: str, console: Console
) -> tuple[list[list[int]], float]:
    """Greedy token ids of every source, and how many of them a second gave."""
    run(sources[:1])  # whatever is made at the first call is not timed
    ids: list[list[int]] = []
    seconds = 0.0
    with Progress(console=console) as progress:
        for start in progress.track(range(0, len(sources), _CHUNK), description=title):
            begin = time.perf_counter()
            ids += run(sources[start : start + _CHUNK])
            seconds += time.perf_counter() - begin
    return ids, sum(map(len, ids)) / seconds


def _share_equal(left: Sequence[object], right: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


def _parameters(module: SequenceModule) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
