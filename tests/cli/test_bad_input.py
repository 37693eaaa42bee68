"""What users get wrong: one clear line on stderr, a non-zero exit, and nothing left behind."""

import gzip
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from litseq.cli.main import main

LITSEQ = [sys.executable, "-m", "litseq"]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command; its exit code and its one line on stderr. The directory must look as before."""
    monkeypatch.chdir(tmp_path)

    def run(*argv, code=2):
        before = _listing(tmp_path)
        assert main([str(part) for part in argv]) == code
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert err.startswith("litseq: error: ")
        assert "Traceback" not in err
        assert _listing(tmp_path) == before
        return err

    return run


def _listing(directory):
    return {str(p.relative_to(directory)): p.stat().st_size for p in directory.rglob("*") if p.is_file()} | {
        str(p.relative_to(directory)): None for p in directory.rglob("*") if p.is_dir()
    }


class TestExport:
    def test_missing_checkpoint(self, run):
        assert "no.ckpt" in run("export", "no.ckpt", "out")

    def test_directory_as_checkpoint(self, run, tmp_path):
        (tmp_path / "d").mkdir()
        assert "directory" in run("export", "d", "out")

    def test_empty_checkpoint(self, run, tmp_path):
        pytest.importorskip("torch")
        (tmp_path / "a.ckpt").touch()
        assert "a.ckpt" in run("export", "a.ckpt", "out")

    def test_no_checkpoint(self, run, tmp_path):
        pytest.importorskip("torch")
        (tmp_path / "a.ckpt").write_text("the quick brown fox " * 100)
        assert "a.ckpt" in run("export", "a.ckpt", "out")

    def test_truncated_checkpoint(self, run, tmp_path, checkpoint):
        (tmp_path / "a.ckpt").write_bytes(checkpoint.read_bytes()[:-1000])
        assert "a.ckpt" in run("export", "a.ckpt", "out")

    def test_foreign_checkpoint(self, run, tmp_path):
        torch = pytest.importorskip("torch")
        torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "a.ckpt")
        assert "litseq" in run("export", "a.ckpt", "out")

    def test_existing_output(self, run, tmp_path, checkpoint):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious.txt").write_text("x")
        assert "out" in run("export", checkpoint, "out")
        # --force replaces a bundle, and nothing else.
        assert "no bundle" in run("export", checkpoint, "out", "--force")

    def test_existing_bundle(self, run, tmp_path, checkpoint, bundle):
        shutil.copytree(bundle, tmp_path / "out")
        assert "--force" in run("export", checkpoint, "out")

    def test_force_replaces_a_bundle(self, tmp_path, checkpoint, bundle, capsys):
        shutil.copytree(bundle, tmp_path / "out")
        assert main(["export", str(checkpoint), str(tmp_path / "out"), "--force"]) == 0
        assert "verified" in capsys.readouterr().out
        assert [p.name for p in tmp_path.iterdir()] == ["out"]

    def test_tolerance_that_cannot_be_met_keeps_nothing(self, run, checkpoint):
        assert "disagree" in run("export", checkpoint, "out", "--tolerance", "1e-12", code=1)

    @pytest.mark.parametrize("force", [False, True])
    def test_interrupt(self, tmp_path, checkpoint, bundle, force, start):
        target = tmp_path / "out"
        if force:
            shutil.copytree(bundle, target)
        before = _listing(tmp_path)
        command = [*LITSEQ, "export", str(checkpoint), str(target), *(["--force"] if force else [])]
        process = start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        # The directory beside the target is there while the export works.
        while not list(tmp_path.glob(".out.partial-*")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert (out, err) == ("", "litseq: error: interrupted; nothing half-written was kept\n")
        assert _listing(tmp_path) == before


class TestGenerate:
    def test_missing_bundle(self, run):
        assert "no-bundle" in run("generate", "no-bundle", "text")

    def test_file_as_bundle(self, run, tmp_path):
        (tmp_path / "b").write_text("x")
        assert "directory" in run("generate", "b", "text")

    def test_directory_that_is_no_bundle(self, run, tmp_path):
        (tmp_path / "b").mkdir()
        assert "manifest.json" in run("generate", "b", "text")

    def test_missing_input(self, run, bundle):
        assert "no.txt" in run("generate", bundle, "--input", "no.txt")

    def test_empty_input(self, run, tmp_path, bundle):
        (tmp_path / "in.txt").touch()
        assert "in.txt" in run("generate", bundle, "--input", "in.txt")

    def test_truncated_gzip_input(self, run, tmp_path, bundle):
        packed = gzip.compress("".join(f"a line {i}\n" for i in range(500)).encode())
        (tmp_path / "in.txt.gz").write_bytes(packed[: len(packed) // 2])
        assert "in.txt.gz" in run("generate", bundle, "--input", "in.txt.gz")

    def test_prompt_too_long(self, run, bundle):
        limit = json.loads((bundle / "manifest.json").read_text())["model"]["max_seq_len"]
        error = run("generate", bundle, "x" * 500)
        assert re.search(r"\b50[0-2]\b", error), error
        assert str(limit) in error

    def test_wrong_option_value(self, run, bundle):
        assert "top_p" in run("generate", bundle, "x", "--top-p", "1.5")

    def test_existing_output(self, run, tmp_path, bundle):
        (tmp_path / "out.txt").write_text("precious")
        assert "--force" in run("generate", bundle, "x", "--output", "out.txt")
        assert (tmp_path / "out.txt").read_text() == "precious"


class TestDamagedBundle:
    @pytest.fixture
    def copy(self, tmp_path, bundle):
        shutil.copytree(bundle, tmp_path / "bundle")
        return tmp_path / "bundle"

    @pytest.mark.parametrize("command", [("generate", "bundle", "x"), ("inspect", "bundle")])
    def test_flipped_byte_in_the_weights(self, run, copy, command):
        # Small models may keep their weights inside the graph.
        weights = next((file for file in copy.iterdir() if file.suffix == ".data"), copy / "decoder.onnx")
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)
        assert weights.name in run(*command)

    def test_missing_file(self, run, copy):
        for name in json.loads((copy / "manifest.json").read_text())["files"]:
            (copy / name).rename(copy / "aside")
            assert f"{name} is missing" in run("generate", "bundle", "x")
            (copy / "aside").rename(copy / name)

    def test_unknown_format_version(self, run, copy):
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest["format_version"] = 999
        (copy / "manifest.json").write_text(json.dumps(manifest))
        error = run("generate", "bundle", "x")
        assert "999" in error
        assert "upgrade litseq" in error

    def test_truncated_manifest(self, run, copy):
        text = (copy / "manifest.json").read_text()
        (copy / "manifest.json").write_text(text[: len(text) // 2])
        assert "JSON" in run("inspect", "bundle")


class TestFit:
    """`litseq fit` and its data: the parser is Lightning's, the one line is ours."""

    def fit(self, run, train, *more, code=2):
        pytest.importorskip("torch")
        small = ["--model.embed_dim=16", "--model.num_layers=1", "--model.num_heads=2", "--trainer.fast_dev_run=true"]
        small += ["--seed_everything=false"]
        return run(
            "fit", "--model=DecoderOnly", "--data=PairDataModule", f"--data.train={train}", *small, *more, code=code
        )

    def test_missing_file(self, run):
        assert "no.tsv" in self.fit(run, "no.tsv")

    def test_empty_file(self, run, tmp_path):
        (tmp_path / "a.tsv").touch()
        assert "a.tsv" in self.fit(run, "a.tsv")

    def test_truncated_gzip(self, run, tmp_path):
        packed = gzip.compress("".join(f"source {i}\ttarget {i}\n" for i in range(500)).encode())
        (tmp_path / "a.tsv.gz").write_bytes(packed[: len(packed) // 2])
        assert "a.tsv.gz" in self.fit(run, "a.tsv.gz")

    def test_line_without_a_tab(self, run, tmp_path):
        (tmp_path / "a.tsv").write_text("a\tb\nno tab\n")
        error = self.fit(run, "a.tsv")
        assert "a.tsv" in error
        assert "2" in error


def test_demo_refuses_what_it_must_not_replace(run, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("x")
    assert "never replaced" in run("demo", "--out", "out", "--force")
    (tmp_path / "file").write_text("x")
    assert "no directory" in run("demo", "--out", "file")
