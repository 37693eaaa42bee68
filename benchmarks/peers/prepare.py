"""Have every model in every form, once: made from a seed, then converted by each system's own converter."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from processes import HERE, Unavailable, clean_environment, python_of
from shapes import Shape
from systems import SYSTEMS

SENTENCES = 10_000


def prepare_shape(shape: Shape, directory: Path, log: Path) -> None:
    """Write transformers' checkpoint and litseq's fp32 bundle, unless they are there."""
    if (directory / "made").is_file():
        return
    directory.mkdir(parents=True, exist_ok=True)
    if shape.behaviour == "copy":
        (directory / "corpus.txt").write_text("".join(f"{line}\n" for line in sentences(SENTENCES)), encoding="utf-8")
    program = "import sys; from pathlib import Path; from shapes import SHAPES; from models import build; "
    program += "build(SHAPES[sys.argv[1]], Path(sys.argv[2]))"
    _run([sys.executable, "-c", program, shape.name, str(directory)], log, f"making {shape.name}")
    (directory / "made").touch()


def prepare_system(system: str, shape: Shape, precision: str, directory: Path, environments: Path, log: Path) -> None:
    """Convert a model for a system, unless that is done.

    Raises:
        Unavailable: the system cannot run this model, is not installed, or its converter failed.
    """
    entry = SYSTEMS[system]
    if shape.family not in entry.families:
        raise Unavailable(f"does not run the {shape.family} family")
    if precision not in entry.precisions:
        raise Unavailable(f"has no {precision} weights on a CPU")
    done = directory / f"converted-{system}-{precision}"
    if done.is_file():
        return
    python = python_of(entry.environment, environments)
    command = [str(python), str(HERE / "convert.py"), entry.module, str(directory), precision]
    _run(command, log, f"converting {shape.name} for {system} in {precision}")
    done.touch()


def sentences(count: int, seed: int = 0) -> list[str]:
    """Lines of made-up words: frequencies as in Zipf's law, 3 to 60 words, 11 in the middle."""
    chance = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(chance.choices(syllables, k=chance.choice((1, 1, 2, 2, 3)))) for _ in range(6000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    lines = []
    for _ in range(count):
        length = max(3, min(60, round(chance.lognormvariate(2.4, 0.55))))
        lines.append(" ".join(chance.choices(words, weights, k=length)).capitalize() + ".")
    return lines


def _run(command: list[str], log: Path, what: str) -> None:
    print(f"{what} ...", flush=True)
    with log.open("a") as stream:
        stream.write(json.dumps(command) + "\n")
        stream.flush()
        environment = clean_environment() | {"PYTHONPATH": _python_path()}
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code:
        raise Unavailable(f"{what} failed with code {code}: {log.read_text().strip().splitlines()[-1][:200]}")


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
