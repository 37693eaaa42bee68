"""A system's process: one JSON object a line in, one out.

    PYTHON worker.py MODULE DIRECTORY PRECISION THREADS VARIANT

After loading it says {"ready": versions, "seconds": ...}; then it answers {"call": METHOD, "args": {...}} with
{"seconds": ..., "result": ...}, or {"error": ...}. What libraries print goes to the standard error.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    # A stopped process would not notice that the one that runs the benchmark was killed (prctl, PR_SET_PDEATHSIG).
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    module, directory, precision, threads, variant = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(values: dict) -> None:
        replies.write(json.dumps(values) + "\n")
        replies.flush()

    try:
        begin = time.perf_counter()
        system = importlib.import_module(f"systems.{module}").System(Path(directory), precision, int(threads), variant)
        reply({"ready": system.versions(), "seconds": time.perf_counter() - begin})
        for line in sys.stdin:
            request = json.loads(line)
            method = getattr(system, request["call"])
            begin = time.perf_counter()
            result = method(**request["args"])
            reply({"seconds": time.perf_counter() - begin, "result": result})
    except Exception as error:
        reply({"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]})
        raise


if __name__ == "__main__":
    main()
