"""What every test shares. Light: the light rooms are tested where torch is not installed."""

import os
import signal
import subprocess
from importlib.util import find_spec

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported. Its threads wait busily for each other, which takes the cores from the tests beside.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if find_spec("lightning"):
    # Lightning's log handler keeps the stderr it finds at import; here that is the session's, which stays open, and not
    # the one of the test that happens to import it first.
    import lightning  # noqa: F401  for what its import does

# A background job of a shell, as a CI run may be, ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Keep the tests of a file in one process: they share what is trained for them. Pages of docs/ share nothing."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if not item.nodeid.startswith("tests/test_docs.py"):
                item.add_marker(pytest.mark.xdist_group(item.path.as_posix()))


@pytest.fixture
def start():
    """`subprocess.Popen` of which nothing is left when the test ends, however it ends."""
    processes = []

    def popen(*args, **options):
        processes.append(subprocess.Popen(*args, **options))
        return processes[-1]

    yield popen
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
