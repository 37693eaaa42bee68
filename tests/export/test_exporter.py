"""Bundles of all kinds of modules: verified, whole, or not there at all."""

import importlib.metadata
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
import torch

from export.small import small_module, small_tokenizer, small_translator
from litseq.bundle import open_bundle
from litseq.errors import ExportError, UsageError
from litseq.export import assert_exportable, export_bundle, exporter
from litseq.models import DecoderOnly, EncoderDecoder, SequenceModule
from litseq.nn import TransformerConfig, TransformerDecoder
from litseq.runtime import Generator

VARIANTS = {
    "decoder-only": (DecoderOnly, {"num_kv_heads": 2}),
    "prefix-lm": (DecoderOnly, {"prefix_lm": True}),
    "heads that fit no contrib node": (DecoderOnly, {"embed_dim": 32, "num_kv_heads": 2}),
    "prefix-lm with such heads": (DecoderOnly, {"embed_dim": 32, "prefix_lm": True}),
    "encoder-decoder": (EncoderDecoder, {"num_decoder_layers": 1}),
    "the original transformer, grouped heads": (
        EncoderDecoder,
        {"norm": "layer", "norm_position": "post", "activation": "relu", "position": "sinusoidal", "bias": True}
        | {"scale_embeddings": True, "num_kv_heads": 2, "max_seq_len": 9},
    ),
    "learned positions, tables apart": (
        EncoderDecoder,
        {"position": "learned", "tie_embeddings": False, "share_embeddings": False, "activation": "gelu"},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_exported_and_verified(name: str, tmp_path: Path) -> None:
    cls, changes = VARIANTS[name]
    report = export_bundle(small_module(cls, **changes), small_tokenizer(), tmp_path / "bundle")
    assert report.passed
    assert report.max_error < 2e-5
    assert report.token_agreement == 1.0
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.parity["passed"] is True
    assert manifest.architecture == cls.architecture
    assert manifest.prompt_pass == ("whole" if changes.get("prefix_lm") else "chunks")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def operations(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]


def test_attention_is_one_node_a_layer(tmp_path: Path) -> None:
    export_bundle(small_translator(position="learned"), small_tokenizer(), tmp_path / "b")
    nodes = operations(tmp_path / "b" / "decoder.onnx")
    assert nodes.count("GroupQueryAttention") == 2
    assert nodes.count("MultiHeadAttention") == 2
    assert not {"Softmax", "ScatterElements", "Concat", "Transpose"} & set(nodes)


def test_weights_are_stored_once(tmp_path: Path) -> None:
    module = small_translator(vocab_size=600)  # one table: both embeddings and the output projection
    export_bundle(module, small_tokenizer(), tmp_path / "b")
    weights = sum(p.numel() * 4 for p in module.parameters())
    stored = (tmp_path / "b" / "weights.data").stat().st_size
    page = 4096 * (len(list(module.parameters())) + 4)  # every tensor begins at a page
    assert stored <= weights + page
    assert (tmp_path / "b" / "decoder.onnx").stat().st_size < 60_000


def test_nothing_of_the_exporting_machine_is_in_the_graphs(tmp_path: Path) -> None:
    export_bundle(small_translator(), small_tokenizer(), tmp_path / "b")
    for file in ("decoder.onnx", "encoder.onnx"):
        content = (tmp_path / "b" / file).read_bytes()
        assert b"stack_trace" not in content
        assert str(Path(exporter.__file__).parent).encode() not in content


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = small_module().train()
    module.decoder.layers[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    export_bundle(module, small_tokenizer(), tmp_path / "b")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_half_precision_is_exported_in_single(tmp_path: Path) -> None:
    module = small_translator().to(torch.bfloat16)
    assert export_bundle(module, small_tokenizer(), tmp_path / "b").passed
    assert next(module.parameters()).dtype == torch.bfloat16
    stored = (tmp_path / "b" / "weights.data").stat().st_size
    assert stored < sum(p.numel() * 4 for p in module.parameters()) + 4096 * 40  # shared tables still shared


def test_the_manifest_says_where_it_came_from(tmp_path: Path) -> None:
    module = small_module()
    module.record.data = {"files": {"train": "pairs.tsv"}}
    export_bundle(module, small_tokenizer(), tmp_path / "b", metrics={"val/loss": 1.25, "val/bleu": float("nan")})
    raw = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert raw["provenance"]["metrics"] == {"val/loss": 1.25, "val/bleu": "nan"}
    assert raw["provenance"]["data"] == {"files": {"train": "pairs.tsv"}}
    assert raw["provenance"]["versions"]["torch"] == importlib.metadata.version("torch")  # which may lack the build
    assert raw["model"]["hparams"]["embed_dim"] == 64
    assert raw["model"]["parameters"] == sum(p.numel() for p in module.parameters())
    assert len(raw["tokenizer"]["golden"]) >= 4
    assert len(raw["parity"]["cases"]) >= 5
    card = (tmp_path / "b" / "card.md").read_text()
    assert "val/loss" in card
    assert "litseq generate b " in card


def swindle(monkeypatch: pytest.MonkeyPatch, module: SequenceModule) -> None:
    """Let the lowering get the scale of the second layer wrong."""
    from litseq.export import lowering

    calls = []

    def wrong(*inputs: object, scale: float, **attributes: object) -> object:
        calls.append(scale)
        return right(*inputs, scale=scale * (1.5 if len(calls) == 2 else 1.0), **attributes)

    right = lowering._GQA
    monkeypatch.setattr(lowering, "_GQA", wrong)


def test_disagreement_fails_with_numbers_and_the_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small_module(num_layers=3)
    swindle(monkeypatch, module)
    with pytest.raises(ExportError) as caught:
        export_bundle(module, small_tokenizer(), tmp_path / "b")
    message = str(caught.value)
    assert "largest relative error" in message
    assert "tolerance 1e-04" in message
    assert "decoder.layers.1.attention" in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_tolerance_too_small_for_single_precision_fails(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="disagree"):
        export_bundle(small_module(), small_tokenizer(), tmp_path / "b", tolerance=1e-9)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "b"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    monkeypatch.setattr(exporter, "trace", lambda spec: pytest.fail("traced all the same"))
    for force in (False, True):
        with pytest.raises(UsageError, match="no bundle"):
            export_bundle(small_module(), small_tokenizer(), target, force=force)
    assert (target / "thesis.txt").read_text() == "mine"


def test_force_replaces_a_bundle_and_a_failure_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_bundle(small_module(), small_tokenizer(), tmp_path / "b")
    first = (tmp_path / "b" / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        export_bundle(small_module(), small_tokenizer(), tmp_path / "b")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "check_parity", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export_bundle(small_module(), small_tokenizer(), tmp_path / "b", force=True)
    assert (tmp_path / "b" / "manifest.json").read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    export_bundle(small_module(num_layers=1), small_tokenizer(), tmp_path / "b", force=True)
    assert open_bundle(tmp_path / "b").manifest.model.hparams["num_layers"] == 1


def test_a_tokenizer_too_large_for_the_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="built for 20"):
        export_bundle(small_module(vocab_size=20), small_tokenizer(), tmp_path / "b")


class Bridged(EncoderDecoder):
    """What it adds between the stacks is in no stack."""

    def hidden_states(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        memory = 2 * self.encoder(batch["input_ids"], batch["attention_mask"])
        return self.decoder(batch["decoder_input_ids"], memory=memory, memory_mask=batch["attention_mask"])


class Capped(DecoderOnly):
    def forward(self, *args: object, **options: object) -> torch.Tensor:
        return 2 * torch.tanh(super().forward(*args, **options) / 2)


class Sided(DecoderOnly):
    def hidden_states(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return super().hidden_states(batch) + batch["speaker"]


class Renamed(DecoderOnly):
    """A forward that wants something else, and one that gives something else, are nobody's business."""

    def forward(self, input_ids: torch.Tensor, speaker: torch.Tensor, *, heat: float) -> torch.Tensor:
        return super().forward(input_ids) / heat + speaker


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Bridged, "hidden_states of Bridged gives other logits than its stacks"),
        (Capped, "forward of Capped gives other logits than its stacks"),
        (
            Sided,
            "hidden_states of Sided cannot do with input_ids, attention_mask, prefix_lengths, .* KeyError: 'speaker'",
        ),
    ],
)
def test_what_stands_outside_of_the_stacks_is_refused(cls: type[SequenceModule], words: str) -> None:
    for half in (False, True):
        module = small_module(cls)
        with pytest.raises(ExportError, match=words):
            assert_exportable(module.to(torch.bfloat16) if half else module)


class MaskedHead(TransformerDecoder):
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = super().logits(hidden)
        forbidden = torch.arange(logits.shape[-1]) == 3
        return logits.masked_fill(forbidden, float("-inf"))


class Masked(DecoderOnly):
    """A token that is never to be written."""

    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return MaskedHead(config)


def test_a_forbidden_token_is_exported_and_quantised(tmp_path: Path) -> None:
    module = small_module(Masked, num_layers=1)
    report = export_bundle(module, small_tokenizer(), tmp_path / "b", quantize="int8")
    assert report.max_error < 2e-5
    assert report.quantization is not None
    assert 0 < report.quantization.kl < 0.1


def test_weights_that_are_no_numbers_are_named() -> None:
    module = small_module()
    next(module.decoder.layers[0].parameters()).data[0] = float("nan")
    with pytest.raises(ExportError, match="DecoderOnly gives logits that are no numbers"):
        assert_exportable(module)


def test_a_forward_of_another_kind_is_let_be() -> None:
    assert assert_exportable(small_module(Renamed, num_layers=1)).passed


class Resized(DecoderOnly):
    def build_decoder(self, config: TransformerConfig) -> TransformerDecoder:
        return TransformerDecoder(config.replace(**self.size))


class ShortDecoder(Resized):
    size: ClassVar = {"max_seq_len": 20}


class WideDecoder(Resized):
    size: ClassVar = {"vocab_size": 64}


class Talkative(DecoderOnly):
    def generation_options(self) -> dict[str, object]:
        return {"max_tokens": 5}


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (ShortDecoder, "built for vocab_size 60 and max_seq_len 20, its module for 60 and 40"),
        (WideDecoder, "built for vocab_size 64 and max_seq_len 40, its module for 60 and 40"),
        (Talkative, "generation_options of Talkative .* did you mean max_new_tokens"),
    ],
)
def test_what_no_runtime_could_use_is_refused_before_any_work(
    cls: type[SequenceModule], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "trace", lambda spec: pytest.fail("traced all the same"))
    with pytest.raises(ExportError, match=words):
        assert_exportable(small_module(cls))


class Unlimited(DecoderOnly):
    def __init__(self, limits: tuple[float, ...] = (1.5, math.inf), **kwargs: object) -> None:
        super().__init__(**kwargs)


def test_a_hyperparameter_may_be_infinite(tmp_path: Path) -> None:
    export_bundle(small_module(Unlimited, num_layers=1), small_tokenizer(), tmp_path / "b")
    assert open_bundle(tmp_path / "b").manifest.model.hparams["limits"] == [1.5, "inf"]


def test_assert_exportable_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert assert_exportable(small_module()).passed
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def prefix_lm(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceModule, Generator]:
    torch.manual_seed(0)
    module = DecoderOnly(vocab_size=300, embed_dim=64, num_heads=2, num_layers=2, max_seq_len=48, prefix_lm=True).eval()
    path = tmp_path_factory.mktemp("prefix-lm") / "bundle"
    export_bundle(module, small_tokenizer(), path)
    return module, Generator.from_bundle(path, threads=1)


def prefix_lm_log_probs(module: SequenceModule, ids: list[int], prompt_length: int) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.tensor([ids]), prefix_lengths=torch.tensor([prompt_length]))[0].log_softmax(-1)


@pytest.mark.parametrize(
    "lengths",
    [[(1, 9)], [(5, 1)], [(5, 9), (5, 1), (5, 9)], [(20, 2), (3, 18), (9, 12)], [(40, 2), (2, 40), (21, 21)]],
    ids=str,
)
def test_a_prefix_lm_scores_what_torch_scores(
    prefix_lm: tuple[SequenceModule, Generator], lengths: list[tuple[int, int]]
) -> None:
    """The target must not see itself whole, as the prefix does in the call that reads it."""
    module, generator = prefix_lm
    rows = [(torch.randint(3, 300, (p,)).tolist(), torch.randint(3, 300, (t,)).tolist()) for p, t in lengths]
    for (prompt, target), found in zip(rows, generator.score(*zip(*rows, strict=True)), strict=True):
        all_of_it = prefix_lm_log_probs(module, prompt + target, len(prompt))[len(prompt) - 1 : -1]
        wanted = all_of_it.gather(1, torch.tensor(target)[:, None]).squeeze(1)
        assert found.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_prefix_lm_does_not_see_a_forced_beginning_as_prompt(
    prefix_lm: tuple[SequenceModule, Generator], options: dict[str, int]
) -> None:
    module, generator = prefix_lm
    prompts, forced = [torch.randint(3, 300, (n,)).tolist() for n in (2, 7, 11)], [17, 4, 90]
    found = generator.generate(prompts, prefix=forced, max_new_tokens=6, min_new_tokens=6, logprobs=True, **options)
    for prompt, completion in zip(prompts, found, strict=True):
        assert list(completion.token_ids[:3]) == forced
        new = list(completion.token_ids[3:])
        log_probs = prefix_lm_log_probs(module, prompt + forced + new, len(prompt))[len(prompt) + 2 : -1]
        wanted = log_probs.gather(1, torch.tensor(new)[:, None]).squeeze(1)
        assert completion.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)
        assert options or new == log_probs.argmax(-1).tolist()
