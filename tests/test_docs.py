"""Every command and snippet of the README and of docs/ runs, page by page, top to bottom.

A page is one Python process in an empty directory: `python` blocks share a namespace, `bash` blocks are run by bash. A
comment before a block, which a reader does not see, may say

    <!-- test: file NAME -->             write the block to NAME instead of running it
    <!-- test: replace OLD => NEW -->    make a number or a path small (may be given several times)
    <!-- test: elsewhere PATH -->        not run here: PATH is the test, or the check in .ci/run, that does
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the pages train models")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNNABLE = {"bash", "python", "yaml"}
SHOWN = {"text", "json"}  # output and file formats

_BLOCK = re.compile(r"(?P<directives>(?:^<!-- test: .* -->\n)*)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S)
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
            else:
                raise ValueError(f"line {line}: unknown directive {verb}")
        blocks.append(block)
    return blocks


def page_script(blocks, page):
    """One Python program that does what the page says."""
    lines = ["import subprocess, pathlib", "_page = {'__name__': '__main__'}"]
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, tmp_path):
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    for block in blocks:
        assert block.language in RUNNABLE | SHOWN, f"line {block.line}: say what the block is"
        assert not block.unused, f"line {block.line}: nothing to replace: {block.unused}"
        assert block.language != "yaml" or block.file, f"line {block.line}: a configuration needs a file"
        if block.elsewhere:
            assert (ROOT / block.elsewhere).is_file(), f"line {block.line}: {block.elsewhere} is missing"
    script = page_script([b for b in blocks if b.language in RUNNABLE and not b.elsewhere], page)
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    env = os.environ | {"PATH": os.pathsep.join(paths), "LITSEQ_TRACEBACK": "1"}
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=env,
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
