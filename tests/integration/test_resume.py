"""A run killed at a random moment and resumed ends with the weights of one that was never stopped, bit for bit."""

import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch

from integration import resume_run

TESTS = Path(__file__).parents[1]
# Runs resume in the directory of the stopped one.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    resume_run.write_data(directory)
    module, trained = resume_run.run(directory)
    return resume_run.state_of(module, trained), trained.fit_loop.epoch_loop.batch_progress.total.completed


def equal(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs


def killed(start, directory, kill_at, workers, saved):
    resume_run.write_data(directory)
    environment = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}", "OMP_NUM_THREADS": "1"}
    script = str(TESTS / "integration" / "resume_run.py")
    process = start([sys.executable, script, str(directory), str(kill_at), str(workers), saved], env=environment)
    assert process.wait(timeout=300) == -signal.SIGKILL
    return directory / "last.ckpt"


def check(start, directory, straight, kill_at, workers, resumed_workers, saved):
    expected, _ = straight
    checkpoint = killed(start, directory, kill_at, workers, saved)
    module, trained = resume_run.run(directory, checkpoint=checkpoint, workers=resumed_workers, saved=saved)
    found = resume_run.state_of(module, trained)
    assert found.keys() == expected.keys()
    for name in expected:
        assert equal(found[name], expected[name]), f"{name} differs after a kill at micro-batch {kill_at}"


def test_the_same_seed_gives_the_same_weights(straight, tmp_path):
    resume_run.write_data(tmp_path)
    module, trained = resume_run.run(tmp_path, workers=2)  # whoever makes the batches
    assert equal(resume_run.state_of(module, trained), straight[0])


def test_killed_and_resumed_equals_never_stopped(start, straight, tmp_path):
    micro_batches = straight[1]
    kill_at = random.randrange(2 * resume_run.SAVED_EVERY + 1, micro_batches)
    saved = random.choice(["step", "validation"])
    check(start, tmp_path, straight, kill_at, workers=1, resumed_workers=0, saved=saved)


def test_a_run_that_ended_inside_an_epoch_can_be_extended(tmp_path):
    options = {"saved": "epoch", "schedule": "inverse_sqrt"}  # a schedule that does not know the end
    found = {}
    for name in ("straight", "extended"):
        directory = tmp_path / name
        directory.mkdir()
        resume_run.write_data(directory)
        checkpoint = None
        if name == "extended":
            _, trained = resume_run.run(directory, **options, max_steps=5)
            assert not trained.fit_loop.epoch_loop.batch_progress.is_last_batch
            checkpoint = directory / "last.ckpt"
        found[name] = resume_run.state_of(*resume_run.run(directory, checkpoint, **options))
    assert equal(found["extended"], found["straight"])


@pytest.mark.slow
def test_killed_and_resumed_at_many_moments(start, straight, tmp_path):
    kills = range(2 * resume_run.SAVED_EVERY + 1, straight[1] + 1)
    for kill_at in random.sample(kills, 8):
        directory = tmp_path / str(kill_at)
        directory.mkdir()
        saved = ["step", "validation"][kill_at % 2]
        check(start, directory, straight, kill_at, workers=kill_at % 3, resumed_workers=kill_at % 2, saved=saved)
