import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from litseq.bundle import open_bundle
from litseq.errors import BundleError
from litseq.runtime import Generator, weights
from litseq.runtime.weights import Weights

EXPORTED = Path(__file__).parent.parent / "fixtures" / "exported-encoder-decoder"


def test_the_data_files_are_mapped_as_they_are():
    mapped = Weights(open_bundle(EXPORTED))
    content = (EXPORTED / "weights.data").read_bytes()
    assert list(mapped.arrays) == ["weights.data"]
    assert mapped.arrays["weights.data"].tobytes() == content
    assert mapped.nbytes == len(content)
    assert not mapped.arrays["weights.data"].flags.writeable
    mapped.release()
    assert mapped.arrays["weights.data"].tobytes() == content


def test_a_bundle_without_data_files(tmp_path):
    mapped = Weights(open_bundle(EXPORTED.parent / "tiny-decoder-only"))
    assert mapped.arrays == {}
    with mapped.loading():
        pass
    mapped.release()


def test_a_file_that_was_cut_after_the_check(tmp_path):
    bundle = open_bundle(shutil.copytree(EXPORTED, tmp_path / "copy"))
    (bundle.path / "weights.data").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"weights.data cannot be mapped into memory"):
        Weights(bundle)


def test_what_is_dropped_while_graphs_load_changes_nothing(monkeypatch):
    expected = Generator.from_bundle(EXPORTED, threads=1).generate([[5, 6, 7]], max_new_tokens=8, logprobs=True)
    monkeypatch.setattr(weights, "_WATCHED_BYTES", 0)
    monkeypatch.setattr(weights, "_WATCH_SECONDS", 0.0)
    watched = Generator.from_bundle(EXPORTED, threads=1)
    assert watched.generate([[5, 6, 7]], max_new_tokens=8, logprobs=True) == expected
    watched._graphs._weights.release()
    assert watched.generate([[5, 6, 7]], max_new_tokens=8, logprobs=True) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts mappings in /proc/self, which only Linux has")
def test_both_graphs_read_one_mapping_and_none_of_it_stays_resident(monkeypatch):
    monkeypatch.setattr(weights, "_WATCHED_BYTES", 0)
    before = _mappings()
    generator = Generator.from_bundle(EXPORTED, threads=1)
    found = [entry for entry in _mappings() if entry not in before]
    assert len(found) == 1, found
    assert generator._graphs.encoder is not None
    resident = re.search(rf"^{found[0]}.*?^Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text(), re.M | re.S)
    assert resident
    assert int(resident.group(1)) * 1024 < generator._graphs._weights.nbytes / 2


def _mappings() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line.split()[0] for line in lines if line.endswith(str(EXPORTED / "weights.data"))]


def test_weights_in_place_of_onnxruntimes_own_mapping_give_the_same_numbers():
    from litseq.runtime.sessions import create_session

    bundle = open_bundle(EXPORTED)
    mapped = Weights(bundle)
    inputs = {"input_ids": np.array([[5, 6, 7]]), "lengths": np.array([3], np.int32)}
    outputs = [
        create_session(bundle.file("encoder.onnx"), 1, data=data).run(None, inputs) for data in (None, mapped.arrays)
    ]
    for theirs, ours in zip(*outputs, strict=True):
        np.testing.assert_array_equal(theirs, ours)
