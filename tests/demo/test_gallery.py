import io
from pathlib import Path

from rich.console import Console

from litseq.demo.gallery import SENTENCES, show_gallery

EXPORTS = Path(__file__).parents[2] / "exports"


def _shown(path: Path) -> str:
    stream = io.StringIO()
    show_gallery(path, Console(file=stream, width=120))
    return stream.getvalue()


def test_every_translator_speaks():
    text = _shown(EXPORTS)
    assert all(sentence in text for sentence in SENTENCES)
    assert all(name in text for name in ("en-de", "en-de-decoder-only", "en-fr", "en-fr-decoder-only", "stories"))


def test_an_empty_gallery_says_nothing(tmp_path):
    assert _shown(tmp_path) == ""
