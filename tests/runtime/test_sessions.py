import json
import subprocess
import sys

import pytest

from litseq.bundle import open_bundle
from litseq.errors import BundleError, UsageError
from litseq.runtime import Generator, graphs, sessions
from litseq.runtime.graphs import Graphs
from litseq.runtime.sessions import check_threads, create_session, default_threads
from runtime.fixtures import fixture_path

FIXTURES = fixture_path("x").parent


def test_default_threads_are_within_what_the_process_may_use():
    assert 1 <= default_threads() <= 1024
    assert check_threads(None) == default_threads()
    assert check_threads(3) == 3


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 5000])
def test_threads_that_are_no_number_of_threads(threads):
    with pytest.raises(UsageError, match="threads is"):
        check_threads(threads)


def test_a_quota_of_the_container_counts(monkeypatch):
    monkeypatch.setattr(sessions, "_cpu_quota", lambda: 1)
    assert default_threads() == 1


def test_threads_are_as_many_as_asked_for_and_other_sessions_stay_possible():
    """In a fresh process: each session brings `threads - 1` workers, and somebody else's plain session still loads."""
    program = f"""
import json, os
import onnxruntime
from litseq.runtime import Generator
count = lambda: len(os.listdir("/proc/self/task"))
path = {str(fixture_path("tiny-encoder-decoder"))!r}
start = count()
first = Generator.from_bundle(path, threads=3)
one = count()
second = Generator.from_bundle(path, threads=1, spinning=False)
two = count()
other = onnxruntime.InferenceSession(path + "/encoder.onnx", providers=["CPUExecutionProvider"])
same = [g.generate(["the fox"])[0].text for g in (first, second)]
print(json.dumps([one - start, two - one, len(set(same))]))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [4, 0, 1]


def test_a_graph_that_is_none(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"x.onnx cannot be loaded by onnxruntime") as caught:
        create_session(tmp_path / "x.onnx", 1)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_contradicts_its_graph(tmp_path):
    pytest.importorskip("onnx")
    from dataclasses import replace

    from runtime.tiny_bundles import tiny_manifest, tiny_tokenizer, write_tiny_bundle
    from runtime.tiny_graphs import TinyNet

    net, tokenizer = TinyNet(vocab_size=43), tiny_tokenizer()
    decoder = tiny_manifest(net, tokenizer).decoder
    for changed, words in (
        (replace(decoder, inputs=decoder.inputs | {"input_ids": "ids"}), "the graph has no input 'ids'"),
        (replace(decoder, cache=decoder.cache[1:]), "asks for an input 'past_key.0' of no known role"),
        (replace(decoder, outputs=decoder.outputs | {"logits": "scores"}), "the graph has no output 'scores'"),
        (
            replace(decoder, cache=tuple(replace(c, dtype="float16") for c in decoder.cache)),
            "'past_key.0' is float32, the manifest says float16",
        ),
        (
            replace(decoder, cache=tuple(replace(c, dims=("batch", 7, "capacity", 16)) for c in decoder.cache)),
            "'past_key.0' has the shape [batch, 2, capacity, 16], the manifest says [batch, 7, capacity, 16]",
        ),
    ):
        path = write_tiny_bundle(tmp_path / "bundle", net, tokenizer, decoder=changed)
        with pytest.raises(BundleError, match="graphs and manifest contradict each other") as caught:
            Graphs(open_bundle(path), 1)
        assert words in str(caught.value)


def test_weights_outside_the_bundle_are_refused(tmp_path):
    """A graph may name external data anywhere; onnxruntime itself refuses what leaves the directory."""
    onnx = pytest.importorskip("onnx")
    from runtime.tiny_bundles import write_tiny_bundle
    from runtime.tiny_graphs import TinyNet

    path = write_tiny_bundle(tmp_path / "bundle", TinyNet(vocab_size=43))
    (tmp_path / "secret").write_bytes(bytes(4 * 32 * 43))
    model = onnx.load(path / "decoder.onnx")
    tensor = next(t for t in model.graph.initializer if t.name == "embed")
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    (tmp_path / "evil.onnx").write_bytes(model.SerializeToString())
    (path / "decoder.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError):
        create_session(path / "decoder.onnx", 1)


def test_a_damaged_bundle_is_not_loaded(tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(fixture_path("tiny-decoder-only"), copy)
    content = bytearray((copy / "decoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "decoder.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder.onnx has SHA-256"):
        Generator.from_bundle(copy)


def test_damaged_weights_are_found_while_they_load(tmp_path, monkeypatch):
    import shutil

    from litseq.bundle import reading

    monkeypatch.setattr(reading, "_BACKGROUND_BYTES", 0)
    copy = shutil.copytree(FIXTURES / "exported-decoder-only", tmp_path / "copy")
    assert Generator.from_bundle(copy)
    content = bytearray((copy / "weights.data").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "weights.data").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights.data has SHA-256"):
        Generator.from_bundle(copy)
    # The damage is named, and not what onnxruntime makes of it.
    monkeypatch.setattr("litseq.runtime.generator.Graphs", lambda *_, **__: 1 / 0)
    with pytest.raises(BundleError, match=r"weights.data has SHA-256"):
        Generator.from_bundle(copy)


def test_a_large_call_gives_its_memory_back(monkeypatch):
    """Only prompts of many tokens are run with arena shrinkage, and tokens do not tell."""
    path = fixture_path("tiny-decoder-only")
    wanted = Generator.from_bundle(path, threads=1).generate([[5] * 30], max_new_tokens=5)
    monkeypatch.setattr(graphs, "_LARGE_TOKENS", 40)
    options = []
    run = sessions.Binding.run

    def noting(self, session):
        options.append(self.is_large)
        run(self, session)

    monkeypatch.setattr(sessions.Binding, "run", noting)
    assert Generator.from_bundle(path, threads=1).generate([[5] * 30], max_new_tokens=5) == wanted
    assert not any(options)
    options.clear()
    Generator.from_bundle(path, threads=1).generate([[5] * 30, [6] * 30], max_new_tokens=5)
    assert options[0] is True and not any(options[1:])
    assert sessions._release_arena().get_run_config_entry("memory.enable_memory_arena_shrinkage") == "cpu:0"


def test_a_tokenizer_that_reads_differently(tmp_path):
    import shutil

    from litseq.bundle.reading import sha256

    copy = tmp_path / "copy"
    shutil.copytree(fixture_path("tiny-decoder-only"), copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tokenizer"]["golden"][0]["ids"][0] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"the tokenizer reads .* at export it was"):
        Generator.from_bundle(copy)
    (copy / "tokenizer.json").write_text("{}")
    manifest["files"]["tokenizer.json"] = {"bytes": 2, "sha256": sha256(copy / "tokenizer.json")}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"tokenizer.json"):
        Generator.from_bundle(copy)


def test_threads_sleep_soon_after_a_call():
    """By default they wait busily for 50 ms, beside whatever else wants the cores: the encoder of the next prompts."""
    program = f"""
import time
from litseq.runtime import Generator
generator = Generator.from_bundle({str(fixture_path("tiny-encoder-decoder"))!r}, threads=2, spinning=True)
used = []
for _ in range(5):
    generator.generate(["the fox"], max_new_tokens=8)
    begin = time.process_time()
    time.sleep(0.2)
    used.append(time.process_time() - begin)
print(min(used))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.02
