"""Write the bundles of tests/fixtures: `PYTHONPATH=src:tests python tests/runtime/make_fixtures.py` (needs onnx)."""

from pathlib import Path

from runtime.fixtures import FIXTURES, fixture_net
from runtime.tiny_bundles import tiny_tokenizer, write_tiny_bundle

if __name__ == "__main__":
    for name in FIXTURES:
        directory = Path(__file__).parents[1] / "fixtures" / name
        write_tiny_bundle(directory, fixture_net(name), tiny_tokenizer("byte"), generation={"max_new_tokens": 24})
        print(directory)
