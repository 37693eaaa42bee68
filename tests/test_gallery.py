"""The bundles that the repository ships: whole, small, described, and able to say something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from litseq.bundle import MANIFEST_NAME, open_bundle
from litseq.runtime import Generator

EXPORTS = Path(__file__).parents[1] / "exports"
BUNDLES = sorted(path.parent for path in EXPORTS.glob(f"*/{MANIFEST_NAME}"))
TRANSLATORS = [path for path in BUNDLES if path.name.startswith("en-")]
SECTIONS = ("Data and licence", "Recipe", "Quality", "Examples", "Limits")
MEGABYTES = 20

name = {"ids": lambda path: path.name}


def test_the_gallery_is_there():
    assert {"en-de", "en-de-decoder-only", "en-fr", "en-fr-decoder-only", "stories", "recall"} == {
        path.name for path in BUNDLES
    }


@pytest.mark.parametrize("path", BUNDLES, **name)
def test_whole_small_and_described(path):
    manifest = open_bundle(path, verify=True).manifest
    assert sum(file.stat().st_size for file in path.iterdir()) <= MEGABYTES * 1e6
    assert manifest.quantization["scheme"] == "int8"
    assert manifest.parity["greedy_token_agreement"] == 1.0
    card = (path / "card.md").read_text(encoding="utf-8")
    assert [section for section in SECTIONS if f"\n## {section}\n" not in card] == []
    assert (EXPORTS / "recipes" / f"{path.name}.yaml").is_file()
    assert f"`python exports/make.py {path.name}" in card


@pytest.mark.parametrize("path", TRANSLATORS, **name)
def test_translates_what_its_card_shows(path):
    """Another processor rounds otherwise and may change a word here and there, not most of a text."""
    card = (path / "card.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\| (\S.*) \| (\S.*) \|$", card.partition("\n## Examples\n")[2], re.M)[1:]
    assert len(examples) >= 5
    outputs = [
        completion.text for completion in Generator.from_bundle(path, threads=1).generate([s for s, _ in examples])
    ]
    common = sum(len(set(out.split()) & set(shown.split())) for out, (_, shown) in zip(outputs, examples, strict=True))
    assert common >= 0.7 * sum(len(set(shown.split())) for _, shown in examples)


def test_the_readmes_command():
    command = [sys.executable, "-m", "litseq", "generate", "exports/en-de", "Tom is a good man."]
    result = subprocess.run(command, cwd=EXPORTS.parent, capture_output=True, text=True, check=True)
    assert "Tom" in result.stdout and "Mann" in result.stdout


def test_a_story_goes_on():
    generator = Generator.from_bundle(EXPORTS / "stories", threads=1)
    text = generator.generate(["Once upon a time there was a king"], max_new_tokens=40, temperature=0.8, seed=1)[0].text
    assert len(set(text.split())) > 10


def test_the_chatbot_remembers():
    generator = Generator.from_bundle(EXPORTS / "recall", threads=1)
    said = ["My name is Ada Byron.", "OK.", "I saw a green kite in Rome.", "OK.", "What is my name?"]
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]
    assert "Ada" in generator.chat(messages).text
