"""What a quantised bundle is to be like."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litseq.errors import UsageError

SCHEMES = ("int8", "int4")
BATCHES = ("large", "small")
BLOCKS = (16, 32, 64, 128)

MAX_LOSS = 0.008
"""Just under one percent of perplexity, so that it stays under it on texts of another kind too."""


@dataclass(frozen=True)
class QuantizeOptions:
    """How a bundle is quantised, and what that is measured on.

    Raises:
        UsageError: for a value that cannot be, in one line.
    """

    to: Literal["int8", "int4"]
    """int8: a quarter of the size, faster at every batch size. int4: about a fifth, fastest for one row, and a little of the
    quality."""
    batch: Literal["large", "small"] | None = None
    """The batch sizes it will serve. `large` (default of int8): each row of an activation has a scale of its own, so that
    a result does not depend on the rows beside it, to the bit. `small` (default of int4, which has no other form): much
    faster for 1 to 4 rows, and measured faster up to 32; a batch may change the last bits of a row."""
    block: int | None = None
    """Inputs that share a scale in the form for small batches. None: 128. Smaller ones keep more of the quality of int4, and
    cost speed: 32 a fifth for one row."""
    head_bits: Literal[4, 8] = 8
    """Bits of the output projection and of the embedding of an int4 bundle."""
    calibration: Path | None = None
    """Texts, one a line (source, tab and target for an encoder-decoder; JSON lines with `text`, `source` and `target`, or
    conversations), on which the errors of int4 are compensated. None: texts that the model writes itself. int8 has no use
    for them."""
    compensate: bool = True
    """Let each weight of an int4 bundle make up for the rounding of those before it; without, each goes to the nearest
    step of the best scale."""
    max_loss: float = MAX_LOSS
    """Of an int4 bundle: matrices whose 4 bits cost most are kept at 8 bits, as few as bring the rise of the loss, on texts like
    those it is calibrated on, down to this, in nats a token (0.01: one percent of perplexity). Infinite: all matrices have
    4 bits, whatever that costs."""
    validation: Path | None = None
    """Texts as in `calibration`, on which perplexity, and BLEU and chrF of pairs, are measured before and after."""
    threads: int | None = None
    """Threads while quantising and measuring. None: one a core."""

    def __post_init__(self) -> None:
        if self.to not in SCHEMES:
            raise UsageError(f"quantisation to {self.to!r} is unknown, expected {' or '.join(SCHEMES)}")
        if self.batch is not None and self.batch not in BATCHES:
            raise UsageError(f"batch is {self.batch!r}, expected {' or '.join(BATCHES)}")
        if self.to == "int4" and self.batch == "large":
            raise UsageError("int4 has a form for small batches only; choose int8 for large ones, or leave out batch")
        if self.block is not None and self.block not in BLOCKS:
            raise UsageError(f"block is {self.block!r}, expected one of {', '.join(map(str, BLOCKS))}")
        if self.calibration is not None and self.to == "int8":
            raise UsageError(
                "calibration has no meaning for int8, whose weights go to the nearest step; leave it out, or give the texts "
                "as validation"
            )
        if self.block is not None and self.form == "rows":
            raise UsageError("block has no meaning for int8 with batch large, which has one scale a row; leave it out")
        if self.head_bits not in (4, 8):
            raise UsageError(f"head_bits is {self.head_bits!r}, expected 4 or 8")
        if not isinstance(self.max_loss, int | float) or not self.max_loss > 0:
            raise UsageError(
                f"max_loss is {self.max_loss!r}, expected a number above 0 (nats a token), or inf for no limit"
            )
        for name, path in (("calibration", self.calibration), ("validation", self.validation)):
            if path is None:
                continue
            object.__setattr__(self, name, Path(path))  # who passes a text means a path
            if not Path(path).is_file():
                found = "is no file" if Path(path).exists() else "does not exist"
                raise UsageError(f"{name} file {path} {found}; give a file of texts, one a line")

    @property
    def form(self) -> Literal["rows", "blocks"]:
        """How products are computed."""
        return "rows" if self.to == "int8" and self.batch != "small" else "blocks"

    @property
    def bits(self) -> int:
        """Bits of the weights inside the layers."""
        return 8 if self.to == "int8" else 4

    @property
    def widest_block(self) -> int:
        """Inputs that share a scale at most: a width that this does not divide has smaller blocks."""
        return self.block or 128
