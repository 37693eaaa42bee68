"""Arms of equal weight: the depth, the feed-forward and if need be the width of an arm are changed until it fits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from litseq.compare.building import weightless
from litseq.errors import UsageError

FFN_STEP = 8
"""Feed-forward widths are multiples of it, as matrix kernels like them."""
_FFN_RANGE = (1.0, 8.0)  # in widths of the residual stream; outside of it an arm would be a strange one
_DEEPEST = 4  # times the layers that were asked for


@dataclass(frozen=True)
class Size:
    """The arguments that decide the weight of an arm, and the weight."""

    init_args: dict[str, Any]
    parameters: int
    changes: str
    """What was changed to get there, in words; empty when nothing was."""


def count_parameters(class_path: str, init_args: dict[str, Any], where: str = "model") -> int:
    """The trainable parameters of a module, counted without making them."""
    module = weightless(class_path, init_args, where)
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def match_parameters(
    class_path: str, init_args: dict[str, Any], target: int, tolerance: float = 0.02, where: str = "model"
) -> Size:
    """The arguments nearest to the given ones with which a module has `target` parameters.

    In this order: as it is; another number of layers; layers and feed-forward; the width as well.

    Args:
        class_path: The module.
        init_args: Its arguments.
        target: Trainable parameters wanted.
        tolerance: How far off, as a share.
        where: What an error names.

    Raises:
        UsageError: No size comes near enough.
    """

    def off(parameters: int) -> float:
        return abs(parameters - target) / target

    given = weightless(class_path, init_args, where)
    parameters = count_parameters(class_path, init_args, where)
    if off(parameters) <= tolerance:
        return Size(dict(init_args), parameters, "")
    sizes = _plain_sizes(given)
    for candidates in (_depths, _depths_and_ffns, _widths):
        for candidate in candidates(class_path, init_args, sizes, target):
            found = count_parameters(class_path, candidate, where)
            if off(found) <= tolerance:  # the first ones of a kind are the nearest to what was given
                return Size(candidate, found, _changes(init_args, candidate, sizes))
    raise UsageError(
        f"{where}: no size within {100 * tolerance:g} % of {target:,} parameters was found (it has {parameters:,} as given);"
        " give the arm a size nearer to the reference, a wider tolerance, or match: none"
    )


def _plain_sizes(module: Any) -> dict[str, Any]:
    """Width, layers, decoder's layers and feed-forward that a module was built with, defaults included."""
    stack = getattr(module, "encoder", None) or module.decoder
    sizes = {
        "embed_dim": stack.config.embed_dim,
        "num_layers": len(stack.layers),
        "ffn_dim": stack.config.ffn_width,
        "num_heads": stack.config.num_heads,
    }
    if module.hparams.get("num_decoder_layers"):
        sizes["num_decoder_layers"] = len(module.decoder.layers)
    return sizes


def _with_layers(init_args: dict[str, Any], sizes: dict[str, Any], layers: int) -> dict[str, Any]:
    changed = init_args | {"num_layers": layers}
    if "num_decoder_layers" in sizes:  # its share of the depth is kept
        changed["num_decoder_layers"] = max(1, round(layers * sizes["num_decoder_layers"] / sizes["num_layers"]))
    return changed


def _layer_counts(sizes: dict[str, Any]) -> list[int]:
    given: int = sizes["num_layers"]
    return sorted(range(1, _DEEPEST * given + 1), key=lambda layers: abs(layers - given))


def _depths(class_path: str, init_args: dict[str, Any], sizes: dict[str, Any], target: int) -> Iterator[dict[str, Any]]:
    # Weights grow evenly with layers: two counts say which number comes near.
    one, two = (count_parameters(class_path, _with_layers(init_args, sizes, n)) for n in (1, 1 + sizes["num_layers"]))
    wanted = round(1 + (target - one) * sizes["num_layers"] / max(two - one, 1))
    if 1 <= wanted <= _DEEPEST * sizes["num_layers"]:
        yield _with_layers(init_args, sizes, wanted)


def _depths_and_ffns(
    class_path: str, init_args: dict[str, Any], sizes: dict[str, Any], target: int
) -> Iterator[dict[str, Any]]:
    """For every depth the one feed-forward that fits, the least changed first.

    Two counts a depth are enough, for weights are even in the feed-forward; and three for all depths together where
    they are even in these too.
    """
    width, given = sizes["embed_dim"], sizes["ffn_dim"]

    def count(layers: int, ffn: int) -> int:
        return count_parameters(class_path, _with_layers(init_args, sizes, layers) | {"ffn_dim": ffn})

    low, wide, deep = count(1, FFN_STEP), count(1, 2 * FFN_STEP), count(2, FFN_STEP)
    fits = []
    for layers in _layer_counts(sizes):
        if "num_decoder_layers" in sizes:
            base, slope = count(layers, FFN_STEP), count(layers, 2 * FFN_STEP) - count(layers, FFN_STEP)
        else:
            base, slope = low + (layers - 1) * (deep - low), layers * (wide - low)
        ffn = FFN_STEP * round(1 + (target - base) / max(slope, 1))
        if _FFN_RANGE[0] * width <= ffn <= _FFN_RANGE[1] * width:
            missed = abs(base + slope * (ffn / FFN_STEP - 1) - target) / target
            changed = abs(ffn - given) / given + 0.1 * abs(layers - sizes["num_layers"])
            if missed < 0.05:  # the count that follows is exact, and takes its time
                fits.append((missed > 0.005, changed, layers, ffn))
    for _, _, layers, ffn in sorted(fits):
        yield _with_layers(init_args, sizes, layers) | {"ffn_dim": ffn}


def _widths(class_path: str, init_args: dict[str, Any], sizes: dict[str, Any], target: int) -> Iterator[dict[str, Any]]:
    """Other widths with as many heads, each with the feed-forward and the depth that fit."""
    step = 2 * sizes["num_heads"]  # rotary positions want an even width of a head
    weight = count_parameters(class_path, init_args)
    # Weights grow with the width at least, and with its square at most.
    wanted = sizes["embed_dim"] * (target / weight) ** 0.6
    widths = [w for w in range(step, 4 * sizes["embed_dim"] + 1, step) if wanted / 2 <= w <= wanted * 2]
    for width in sorted(widths, key=lambda width: abs(width - wanted))[:12]:
        ffn = FFN_STEP * max(1, round(2.5 * width / FFN_STEP))
        wide = init_args | {"embed_dim": width}
        yield from _depths_and_ffns(class_path, wide, sizes | {"embed_dim": width, "ffn_dim": ffn}, target)


def _changes(before: dict[str, Any], after: dict[str, Any], sizes: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {before.get(name) or sizes.get(name)} -> {value}"
        for name, value in after.items()
        if value != before.get(name) and value != sizes.get(name)
    )
