"""Several runs at a time: how many, with how many threads, and what becomes of them."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from litseq.compare import pool
from litseq.compare.processes import run_process

PLANS = [{"arm": arm, "seed": seed} for seed in (1, 2) for arm in ("a", "b", "c")]


@pytest.fixture
def out(tmp_path):
    for plan in PLANS:
        pool.run_directory(tmp_path, plan["arm"], plan["seed"]).mkdir(parents=True)
    return tmp_path


def run_all(out, jobs):
    stream = io.StringIO()
    return pool.run_all(PLANS, out, jobs, Console(file=stream, width=200)), stream.getvalue()


@pytest.mark.parametrize(("jobs", "threads"), [(1, None), (2, 4), (3, 2), (16, 1)])
def test_so_many_run_at_a_time_each_with_its_share_of_the_cores(out, monkeypatch, jobs, threads):
    monkeypatch.setattr(pool, "default_threads", lambda: 8)
    lock, running, most, given = threading.Lock(), [], [], set()

    def run(module, arguments, directory, watch, share, stopping):
        given.add(share)
        with lock:
            running.append(directory)
            most.append(len(running))
        watch("training", 0.5)
        time.sleep(0.05)
        with lock:
            running.remove(directory)

    monkeypatch.setattr(pool, "run_process", run)
    failed, log = run_all(out, jobs)
    assert failed == {}
    assert max(most) == min(jobs, len(PLANS))
    assert given == {threads}
    assert log.count(": done in") == len(PLANS)


def test_what_fails_is_named_in_the_order_of_the_plans_and_costs_no_other(out, monkeypatch):
    def run(module, arguments, directory, *more):
        slow = directory.parent.name == "a"
        time.sleep(0.1 * slow)
        return "no luck" if slow or directory.parent.name == "c" else None

    monkeypatch.setattr(pool, "run_process", run)
    failed, log = run_all(out, 3)
    assert list(failed.items()) == [((arm, seed), "no luck") for seed in (1, 2) for arm in ("a", "c")]
    assert "b, seed 2: done" in log
    assert json.loads((out / "runs" / "a" / "seed-2" / "failed.json").read_text()) == {"reason": "no luck"}


def test_an_interrupt_ends_what_runs_and_begins_nothing_else(out, monkeypatch):
    begun, told = [], []

    def run(module, arguments, directory, watch, share, stopping):
        begun.append(directory)
        if len(begun) == 2:
            raise KeyboardInterrupt
        told.append(stopping.wait(20))
        return "ended by signal 15"

    monkeypatch.setattr(pool, "run_process", run)
    with pytest.raises(KeyboardInterrupt):
        run_all(out, 2)
    assert told
    assert all(told)
    assert len(begun) <= 3  # one may have come up before the word to stop
    assert not list(out.glob("runs/*/*/failed.json"))


def test_a_process_ends_when_it_is_told_to_and_knows_its_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "waits.py").write_text(
        "import os, pathlib, time\n"
        "pathlib.Path(__file__).with_name('threads').write_text(os.environ['OMP_NUM_THREADS'])\n"
        "time.sleep(60)"
    )
    stopping = threading.Event()
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(run_process, "waits", [], tmp_path, lambda *_: None, 3, stopping)
        while not (tmp_path / "threads").exists() or not (tmp_path / "threads").read_text():
            assert time.monotonic() - begin < 30
            time.sleep(0.02)
        stopping.set()
        assert "SIGTERM" in ran.result(timeout=20)
    assert (tmp_path / "threads").read_text() == "3"


def test_a_process_ends_with_the_one_that_started_it(tmp_path, monkeypatch, start):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "waits.py").write_text(
        "import fcntl, pathlib, time\n"
        "from litseq.compare.processes import end_with_parent\n"
        "end_with_parent()\n"
        "lock = pathlib.Path(__file__).with_name('lock').open('w')\n"
        "fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "pathlib.Path(__file__).with_name('locked').touch()\n"
        "time.sleep(60)"
    )
    call = f"run_process('waits', [], pathlib.Path({str(tmp_path)!r}), print)"
    command = f"import pathlib; from litseq.compare.processes import run_process; {call}"
    parent = start([sys.executable, "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begin = time.monotonic()
    while not (tmp_path / "locked").exists():
        assert time.monotonic() - begin < 60
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    begin = time.monotonic()
    while held(tmp_path / "lock"):
        assert time.monotonic() - begin < 20
        time.sleep(0.05)


def held(path):
    """Whether another process has the lock: the system takes it from one that has ended."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # how flock says that it is held
            return True
    return False
