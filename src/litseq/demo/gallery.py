"""The end of the demo: what the trained bundles of the gallery say."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from litseq.bundle import MANIFEST_NAME
from litseq.runtime import Generator

SENTENCES = ("Tom is a good man.", "Where is the next train station?", "The children are playing in the garden.")
STORY = "Once upon a time there was a king"
_TRANSLATES = "en-"


def show_gallery(gallery: Path, console: Console) -> None:
    """Print what every bundle of the gallery makes of a few sentences, and how a story goes on.

    Args:
        gallery: A directory of bundles; those named `en-...` translate, `stories` continues a text.
        console: Where to print.
    """
    bundles = sorted(path.parent for path in gallery.glob(f"*/{MANIFEST_NAME}"))
    translators = [path for path in bundles if path.name.startswith(_TRANSLATES)]
    if translators:
        table = Table(title=f"Trained translators of {gallery}, int8, greedy", show_header=False)
        table.add_column()
        table.add_column(overflow="fold")
        rows: list[list[str]] = [[] for _ in SENTENCES]
        for path in translators:
            for row, completion in zip(rows, Generator.from_bundle(path).generate(SENTENCES), strict=True):
                row.append(completion.text)
        for sentence, outputs in zip(SENTENCES, rows, strict=True):
            table.add_section()
            table.add_row("input", sentence)
            for path, text in zip(translators, outputs, strict=True):
                table.add_row(path.name, text)
        console.print(table)
    if gallery / "stories" in bundles:
        story = Generator.from_bundle(gallery / "stories")
        text = story.generate([STORY], max_new_tokens=50, temperature=0.8, top_p=0.95, seed=1)[0].text
        console.print(f"\n{gallery / 'stories'}: [bold]{STORY}[/bold]", end="", soft_wrap=True)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    if bundles:
        console.print(f"\nTry: litseq generate {bundles[0]} {SENTENCES[0]!r}", soft_wrap=True)
