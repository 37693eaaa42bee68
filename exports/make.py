"""Make a bundle of the gallery again: train, export to int8, measure, write its card.

    python exports/make.py en-de --data ../shared/data

A training takes 10 to 100 minutes on one core; with `--checkpoint` an existing one is exported and measured, and with
`--measure` the bundle that is there is measured again, on a quiet machine say.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from entries import ENTRIES, Entry

from litseq.bundle import create_bundle, read_manifest
from litseq.bundle.card import CARD_FILE, card_text
from litseq.errors import LitseqError, UsageError
from litseq.models.hardware import lacks_bfloat16
from litseq.runtime import Generator

HERE = Path(__file__).parent


def main() -> int:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description="Train, export and measure a bundle of the gallery.")
    parser.add_argument("names", metavar="NAME", nargs="+", choices=sorted(ENTRIES), help=", ".join(sorted(ENTRIES)))
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR", help="directory of the corpora")
    parser.add_argument("--work", type=Path, default=Path("runs/gallery"), metavar="DIR", help="checkpoints and logs")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", type=Path, metavar="FILE", help="export this one instead of training")
    source.add_argument("--measure", action="store_true", help="measure the bundle again, and write its card anew")
    parser.add_argument("--out", type=Path, default=HERE, metavar="DIR", help="where the bundles go (default: here)")
    args = parser.parse_args()
    if args.checkpoint is not None and len(args.names) > 1:
        parser.error("--checkpoint is of one bundle; name one")
    try:
        for name in args.names:
            entry = ENTRIES[name]
            missing = [file for file in entry.files(args.data) if not file.is_file()]
            if missing:
                parser.error(f"{missing[0]} does not exist; --data names the directory of the corpora")
            data, work, out = args.data.resolve(), (args.work / name).resolve(), args.out / name
            if args.measure:
                measure(entry, data, work, out)
            else:
                make(entry, data, work, out, args.checkpoint)
    except (LitseqError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def make(entry: Entry, data: Path, work: Path, out: Path, checkpoint: Path | None) -> None:
    """Make one bundle; what is at `out` stays until the new one is complete."""
    data = _data(entry, data, work)
    if checkpoint is None:
        shutil.rmtree(work / "training", ignore_errors=True)
        recipe = str(HERE.resolve() / "recipes" / f"{entry.name}.yaml")
        # The recipes ask for bfloat16, which is several times slower than float32 where a processor has to imitate it.
        precision = ["--trainer.precision=32-true"] if lacks_bfloat16() else []
        _litseq("fit", "-c", recipe, *entry.fit_arguments(data), *precision, at=work)
        checkpoint = work / "training" / "checkpoints" / "last.ckpt"
    bundle = work / "bundle"
    validation = [] if entry.generated_by else ["--validation", str(entry.validation(data))]
    _litseq(
        "export", str(checkpoint.resolve()), str(bundle), "--force", "--quantize", "int8", "--batch", entry.batch,
        *validation, at=work,
    )  # fmt: skip
    _finish(entry, data, bundle, out, entry.recipe(work / "training"))


def measure(entry: Entry, data: Path, work: Path, out: Path) -> None:
    """Measure the bundle at `out` again; its card keeps what it says of the training."""
    if not (out / CARD_FILE).is_file():
        raise UsageError(
            f"{out} holds no bundle with a card, so there is nothing to measure again; leave out --measure"
        )
    recipe = (out / CARD_FILE).read_text(encoding="utf-8").partition("## Recipe\n\n")[2].partition("\n")[0]
    _finish(entry, _data(entry, data, work), out, out, recipe)


def _data(entry: Entry, data: Path, work: Path) -> Path:
    """Where the data of a bundle are: what a program makes, is made."""
    work.mkdir(parents=True, exist_ok=True)
    if entry.generated_by is None:
        return data
    subprocess.run([sys.executable, str(HERE.parent / entry.generated_by), str(work / "data")], check=True)
    return work / "data"


def _finish(entry: Entry, data: Path, bundle: Path, out: Path, recipe: str) -> None:
    """Measure `bundle`, and write it to `out` with its card."""
    print(f"{entry.name}: measuring", flush=True)
    sections = entry.measure(Generator.from_bundle(bundle), data, recipe)
    manifest = read_manifest(bundle)
    with create_bundle(out, force=True) as draft:
        for file in manifest.files:
            if file != CARD_FILE:
                shutil.copyfile(bundle / file, draft.path / file)
        card = card_text(manifest, draft.path) + "\n" + "\n".join(sections)
        (draft.path / CARD_FILE).write_text(card, encoding="utf-8")
        draft.finish(manifest)
    print(f"{out}: {sum(file.stat().st_size for file in out.iterdir()) / 1e6:.1f} MB")


def _litseq(*arguments: str, at: Path) -> None:
    subprocess.run([sys.executable, "-m", "litseq", *arguments], cwd=at, check=True)


if __name__ == "__main__":
    sys.exit(main())
