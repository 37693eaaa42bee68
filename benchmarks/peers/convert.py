"""One system's own converter, run in its own environment: PYTHON convert.py MODULE DIRECTORY PRECISION."""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    module, directory, precision = sys.argv[1:]
    importlib.import_module(f"systems.{module}").convert(Path(directory), precision)
