"""Generators and processes: pickled, spawned, forked, many in one, and with one pool of threads."""

import json
import os
import pickle
import subprocess
import sys

import pytest

from litseq.runtime import Generator
from runtime.fixtures import fixture_path

PATH = str(fixture_path("tiny-encoder-decoder"))


def generate(generator: Generator) -> list[int]:
    return generator.generate(["the fox"], max_new_tokens=8)[0].token_ids


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"path = {PATH!r}\n{program}"], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_pickled_generator_loads_its_bundle_again():
    generator = Generator.from_bundle(PATH, threads=1, batch_size=3, spinning=False)
    copy = pickle.loads(pickle.dumps(generator))
    assert generate(copy) == generate(generator)
    assert (copy.threads, copy.batch_size) == (1, 3)


def test_spawned_workers_get_generators_of_their_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing
from litseq.runtime import Generator

def work(generator):
    print(generator.generate(["the fox"], max_new_tokens=8)[0].token_ids, flush=True)

if __name__ == "__main__":
    generator = Generator.from_bundle({PATH!r}, threads=1)
    work(generator)
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(generator,))
    worker.start()
    worker.join(100)
    assert worker.exitcode == 0
""")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    here, there = run.stdout.splitlines()
    assert here == there


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork, so nothing can be loaded before one")
def test_a_fork_says_what_to_do_instead_of_hanging():
    """Its sessions would wait for threads that the fork does not have."""
    run = python("""
import os, sys
from litseq.errors import LitseqError
from litseq.runtime import Generator
generator = Generator.from_bundle(path, threads=3)
generator.generate(["the fox"], max_new_tokens=4)
child = os.fork()
if child == 0:
    try:
        generator.generate(["the fox"], max_new_tokens=4)
    except LitseqError as error:
        print(error)
        fresh = Generator.from_bundle(path, threads=2)
        print(len(fresh.generate(["the fox"], max_new_tokens=4)))
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
""")
    assert run.returncode == 0, run.stderr
    message, count = run.stdout.splitlines()
    assert "a fork of it" in message
    assert "multiprocessing.get_context('spawn')" in message
    assert count == "1"


def test_many_generators_share_one_pool_when_asked_to():
    run = python("""
import json, os
import onnxruntime
from litseq.errors import UsageError
from litseq.runtime import Generator, share_threads
count = lambda: len(os.listdir("/proc/self/task"))
alone = Generator.from_bundle(path, threads=1).generate(["the fox"], max_new_tokens=8)
start = count()
size = share_threads(3), share_threads(3), share_threads()
pool = count() - start
generators = [Generator.from_bundle(path, spinning=i % 2 == 0) for i in range(8)]
more = count() - start - pool
same = {g.generate(["the fox"], max_new_tokens=8)[0].text for g in generators} == {alone[0].text}
try:
    share_threads(2)
except UsageError as error:
    message = str(error)
options = onnxruntime.SessionOptions()
options.use_per_session_threads = False
onnxruntime.InferenceSession(path + "/encoder.onnx", options, providers=["CPUExecutionProvider"])
print(json.dumps([size, pool, more, same, message]))
""")
    assert run.returncode == 0, run.stderr
    size, pool, more, same, message = json.loads(run.stdout.splitlines()[-1])
    assert size == [3, 3, 3]
    assert (pool, more, same) == (2, 0, True)
    assert "shares a pool of 3 threads already" in message


def test_a_global_pool_of_somebody_else_is_used():
    run = python("""
import os
import time
import onnxruntime
onnxruntime.set_global_thread_pool_sizes(2, 1)
from litseq.runtime import Generator
before = len(os.listdir("/proc/self/task"))
made = len(Generator.from_bundle(path, threads=4).generate(["the fox"], max_new_tokens=8))
end = time.monotonic() + 5
# The thread that hashed the weights has been joined, and may still stand in the list for a moment.
while (more := len(os.listdir("/proc/self/task")) - before) and time.monotonic() < end:
    time.sleep(0.01)
print(made, more)
""")
    assert run.returncode == 0, run.stderr
    assert run.stdout == "1 0\n"


def test_eight_generators_in_one_process_leave_nothing_behind():
    run = python("""
import gc, json, os, time
from litseq.runtime import Generator
count = lambda: len(os.listdir("/proc/self/task"))
start = count()
generators = [Generator.from_bundle(path, threads=2) for _ in range(8)]
texts = {g.generate(["the fox"], max_new_tokens=8)[0].text for g in generators}
deadline = time.monotonic() + 10
while count() - start > 16 and time.monotonic() < deadline:
    time.sleep(0.01)  # the thread that read the prompts ahead may just be ending
during = count() - start
del generators
gc.collect()
print(json.dumps([len(texts), during, count() - start]))
""")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [1, 16, 0]  # a worker beside the caller for each encoder and each decoder
