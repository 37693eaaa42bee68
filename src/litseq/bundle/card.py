"""The card of a bundle: what a person reads first."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from litseq.bundle import Manifest

CARD_FILE = "card.md"


def card_text(manifest: Manifest, directory: Path) -> str:
    """Markdown that says what a bundle is, where it came from, what was verified and how to run it."""
    model, parity, provenance = manifest.model, manifest.parity, manifest.provenance
    size = sum(file.stat().st_size for file in directory.iterdir())
    lines = [
        f"# {model.class_path.rsplit('.', 1)[-1]} ({manifest.architecture})",
        "",
        f"- {model.parameters:,} parameters, vocabulary {model.vocab_size:,}, at most {model.max_seq_len} tokens",
        f"- {size / 1e6:.1f} MB of ONNX, weights and tokenizer",
    ]
    lines += _parity_lines(parity)
    lines += _quantization_lines(manifest.quantization)
    versions = provenance.get("versions")
    if isinstance(versions, dict):
        lines.append("- made with " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    metrics = provenance.get("metrics")
    if isinstance(metrics, dict) and metrics:
        lines += ["", "## Metrics", "", *(f"- `{name}`: {_number(value)}" for name, value in sorted(metrics.items()))]
    data = provenance.get("data")
    if isinstance(data, dict) and data:
        lines += ["", "## Data", "", *_data_lines(data)]
    lines += [
        "",
        "## Run it",
        "",
        "```",
        f"litseq generate {manifest_name(directory)} 'your text'",
        "```",
        "",
        "```python",
        "from litseq.runtime import Generator",
        "",
        f'generator = Generator.from_bundle("{manifest_name(directory)}")',
        'print(generator.generate(["your text"])[0].text)',
        "```",
        "",
    ]
    return "\n".join(lines)


def _data_lines(data: dict[str, Any]) -> Iterator[str]:
    """What the fingerprint of litseq's data modules says of each split; the manifest holds all of it."""
    try:
        for name, split in data["splits"].items():
            files = ", ".join(f"`{file['name']}`" for file in split["files"])
            left_out = sum(split["dropped"].values()) + split["bad_lines"]
            counts = f"{split['examples']:,} examples, {split['tokens']:,} tokens"
            yield f"- {name}: {files} ({counts}{f', {left_out:,} left out' if left_out else ''})"
        yield f"- tokenizer: {data['tokenizer']['vocab_size']:,} tokens"
    except (AttributeError, KeyError, TypeError, ValueError):  # another data module's own words
        yield from (f"- {key}: {value}" for key, value in data.items())


def _parity_lines(parity: dict[str, Any]) -> Iterator[str]:
    """What the comparison with torch found."""
    try:
        yield (
            f"- verified against torch: largest relative error {parity['max_error']:.2g} (tolerance "
            f"{parity['tolerance']:.0e}), greedy tokens equal at {parity['greedy_token_agreement']:.2%} of "
            f"{parity['positions']} positions"
        )
    except (KeyError, TypeError, ValueError):  # a bundle made by hand
        return


def _quantization_lines(facts: dict[str, Any]) -> Iterator[str]:
    """How the weights were quantised and what that costs."""
    try:
        report, block = facts["report"], facts["block"]
        invariant = "a result does not depend on its batch" if facts["batch_invariant"] else "last bits vary by batch"
        yield (
            f"- quantised from the verified fp32 graphs: {facts['scheme']}, form `{facts['form']}` for {facts['batch']} "
            f"batches{f', blocks of {block}' if block else ''}, rounding {facts['rounding']}; {invariant}"
        )
        yield (
            f"- cost on {report['measured_on']}: KL {report['kl']:.2g} nats, greedy tokens equal at "
            f"{report['greedy_agreement']:.2%} of {report['positions']} positions, measured with onnxruntime "
            f"{report['machine']['onnxruntime']} on {report['machine']['cpu']} ({' '.join(report['machine']['features'])})"
        )
        if report.get("kept_at_8_bits"):
            yield f"- {report['kept_at_8_bits']:.0%} of the weights in the layers are kept at 8 bits, which 4 bits hurt most"
        for name, values in report["metrics"].items():
            yield f"- {name}: {values['fp32']:.4g} in fp32, {values['quantised']:.4g} quantised"
    except (AttributeError, KeyError, TypeError, ValueError):  # another writer's own words, or none
        return


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def manifest_name(directory: Path) -> str:
    """How the card calls its own directory, which has another name while it is written."""
    name = directory.name
    return name.lstrip(".").split(".partial-")[0] if ".partial-" in name else name
