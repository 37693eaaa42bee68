"""The serving side never needs torch, lightning or onnx: tried in processes where they cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.fixtures import FIXTURES, fixture_net, fixture_path

ROOMS = sorted(
    path.name
    for path in (Path(__file__).parents[1] / "src" / "litseq").iterdir()
    if path.name in {"text", "bundle", "generation", "runtime", "serve", "scale", "bench"}
)

# None in sys.modules makes the import fail; that a module is merely absent from it would prove less.
BLOCKED = """
import sys
for name in ("torch", "lightning", "pytorch_lightning", "torchmetrics", "onnx", "onnxscript", "jsonargparse", "transformers"):
    sys.modules[name] = None
"""


def python(
    program: str, *arguments: str, stdin: str = "", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, env=env)


@pytest.mark.parametrize("name", FIXTURES)
def test_a_bundle_generates_without_torch(name):
    program = f"""
import json
from litseq.runtime import Generator
generator = Generator.from_bundle({str(fixture_path(name))!r}, threads=1)
completions = generator.generate([[5, 6, 7], "größe"], max_new_tokens=12)
pieces = list(generator.stream([5, 6, 7], max_new_tokens=12))
scores = generator.score([[5, 6, 7]], [completions[0].token_ids])
sampled = generator.generate([[5, 6, 7]], max_new_tokens=12, temperature=1.0, top_k=9, top_p=0.9, seed=0)
print(json.dumps([completions[0].token_ids, completions[0].text, "".join(pieces), len(scores[0].logprobs)]))
"""
    run = python(program)
    assert run.returncode == 0, run.stderr
    ids, text, streamed, scored = json.loads(run.stdout)
    net = fixture_net(name)
    wanted = net.greedy([1], 12, 2, [5, 6, 7]) if net.encoder_decoder else net.greedy([5, 6, 7], 12, 2)
    assert ids == [token for token in wanted if token != 2]
    assert text == streamed
    assert scored == len(ids)


def test_every_light_module_imports_without_torch():
    program = f"""
import importlib, pkgutil
for room in {ROOMS!r}:
    package = importlib.import_module("litseq." + room)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""
    run = python(program)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", FIXTURES)
def test_the_commands_run_without_torch(name):
    program = "from litseq.cli.main import main; sys.exit(main(sys.argv[1:]))"
    path = str(fixture_path(name))
    run = python(program, "generate", path, "--threads", "1", "--max-new-tokens", "3", stdin="one\ntwo\n")
    assert (run.returncode, run.stderr) == (0, "")
    assert len(run.stdout.splitlines()) == 2
    run = python(program, "inspect", path, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["format"] == "litseq-bundle"


def test_importing_the_runtime_is_quick_and_small(tmp_path):
    program = """
import time
start = time.process_time()
import litseq.runtime
seconds = time.process_time() - start
# Not getrusage: its peak is inherited from the process that started this one.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024)
"""
    # Compiled, as it is for whoever imports it twice: where bytecode may not be written, every import is a compilation.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    runs = [python(program, env=env).stdout.split() for _ in range(5)]
    # Processor time and the best of several: the machine may be busy with something else.
    assert min(float(seconds) for seconds, _ in runs) < 0.5
    assert max(float(megabytes) for _, megabytes in runs) < 120
