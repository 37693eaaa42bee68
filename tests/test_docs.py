"""Every command and snippet of the README and of docs/ runs, page by page, top to bottom.

A page is one Python process in an empty directory: `python` blocks share a namespace, `bash` blocks are run by bash. A
comment before a block, which a reader does not see, may say

    <!-- test: file NAME -->             write the block to NAME instead of running it
    <!-- test: replace OLD => NEW -->    make a number or a path small (may be given several times)
    <!-- test: elsewhere PATH -->        not run here: PATH is the test, or the check in .ci/run, that does

and anywhere on a page

    <!-- test: page no-torch -->         torch, lightning and onnx cannot be imported on this page
    <!-- test: page bundle -->           a bundle lies in `bundle`

The directory holds small `train.tsv`, `valid.tsv`, `train.txt` and `valid.txt`, and `tiny_demo.py`, the demo in small.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TINY_DEMO = """
from pathlib import Path

from litseq.demo.run import run_demo
from litseq.demo.settings import DemoSettings

small = DemoSettings(
    train_pairs=300, val_pairs=10, test_pairs=20, epochs=1, embed_dim=16, encoder_decoder_layers=1, decoder_only_layers=2
)
run_demo(small, Path("runs/demo"))
"""
RUNNABLE = {"bash", "python", "yaml"}
SHOWN = {"text", "json"}  # output and file formats

_BLOCK = re.compile(
    r"(?P<directives>(?:^<!-- test: [^\n]* -->\n)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_PAGE = re.compile(r"^<!-- test: page (.*) -->$", re.M)
_DIRECTIVE = re.compile(r"^<!-- test: (\w+) (.*) -->$", re.M)


@dataclass
class Block:
    language: str
    code: str
    line: int
    file: str | None = None
    elsewhere: str | None = None
    unused: list[str] = field(default_factory=list)


def read_blocks(text):
    blocks = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(match["language"], match["code"], line)
        for verb, value in _DIRECTIVE.findall(match["directives"]):
            if verb == "file":
                block.file = value
            elif verb == "elsewhere":
                block.elsewhere = value
            elif verb == "replace":
                old, new = value.split(" => ")
                if old not in block.code:
                    block.unused.append(old)
                block.code = block.code.replace(old, new)
            elif verb != "page":
                raise ValueError(f"line {line}: unknown directive {verb}")
        blocks.append(block)
    return blocks


def page_script(blocks, page, blocked):
    """One Python program that does what the page says."""
    lines = ["import subprocess, pathlib, sys", f"sys.modules.update(dict.fromkeys({blocked!r}))"]
    lines += ["_page = {'__name__': '__main__'}"]
    for block in blocks:
        # As many newlines as lines before it: a traceback then names the line of the page.
        padded = "\n" * (block.line - 1) + block.code
        if block.file:
            lines.append(f"_path = pathlib.Path({block.file!r}); _path.parent.mkdir(parents=True, exist_ok=True)")
            lines.append(f"_path.write_text({block.code!r}, encoding='utf-8')")
        elif block.language == "python":
            lines.append(f"exec(compile({padded!r}, {page.name!r}, 'exec'), _page)")
        else:
            lines.append(f"print({'$ ' + block.code!r}, flush=True)")
            lines.append(f"subprocess.run(['bash', '-euo', 'pipefail', '-c', {block.code!r}], check=True)")
    return "\n".join(lines)


def furnish(directory, settings):
    """Lay what pages may use into the directory they run in."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    pairs = [(f"{a} and {b}", f"{b} und {a}") for a in words for b in words]
    for name, part in {"train": pairs[:80], "valid": pairs[80:]}.items():
        (directory / f"{name}.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in part), encoding="utf-8")
        (directory / f"{name}.txt").write_text("".join(f"{a}\n" for a, _ in part), encoding="utf-8")
    (directory / "tiny_demo.py").write_text(TINY_DEMO, encoding="utf-8")
    (directory / "configs").symlink_to(ROOT / "configs")
    if "bundle" in settings:
        shutil.copytree(ROOT / "tests" / "fixtures" / "tiny-encoder-decoder", directory / "bundle")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    settings, blocks = _PAGE.findall(text), read_blocks(text)
    for block in blocks:
        assert block.language in RUNNABLE | SHOWN, f"line {block.line}: say what the block is"
        assert not block.unused, f"line {block.line}: nothing to replace: {block.unused}"
        assert block.language != "yaml" or block.file, f"line {block.line}: a configuration needs a file"
        if block.elsewhere:
            assert (ROOT / block.elsewhere).is_file(), f"line {block.line}: {block.elsewhere} is missing"
    if "no-torch" not in settings and not find_spec("torch"):
        pytest.skip("the page trains or exports, which needs the extra [train]; the light environment has none")
    blocked = ("torch", "lightning", "onnx", "onnxscript") if "no-torch" in settings else ()
    script = page_script([b for b in blocks if b.language in RUNNABLE and not b.elsewhere], page, blocked)
    furnish(tmp_path, settings)
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": os.pathsep.join(paths), "LITSEQ_TRACEBACK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stdout[-6000:]}"


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
