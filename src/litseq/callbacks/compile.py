"""`CompileLayers`: `torch.compile` from a configuration."""

import os
import shutil
import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from litseq.models.sharding import layers_of


class CompileLayers(Callback):
    """Compile the layers with `torch.compile` when training begins, and leave them as they were when it ends.

    Layer by layer, since all layers share what one compiles to, where a whole stack takes minutes
    (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html). Names of weights do not change, and
    checkpoints and exports know nothing of it.

    Args:
        dynamic: Compile for any batch and length. Without it every new shape is compiled again.
        backend: The compiler; `inductor` needs a C++ compiler to compile for a CPU, and where there is none the layers stay
            as they are, with a warning: slower, and the same training.
        mode: `inductor`'s mode, such as `max-autotune`.
    """

    def __init__(self, dynamic: bool = True, backend: str = "inductor", mode: str | None = None) -> None:
        self.options: dict[str, Any] = {"dynamic": dynamic, "backend": backend, "mode": mode}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile; nothing happens before the first batch."""
        if stage == "fit":
            on_cpu, compiler = trainer.strategy.root_device.type == "cpu", _cpp_compiler()
            if on_cpu and self.options["backend"] == "inductor" and shutil.which(compiler) is None:
                rank_zero_warn(
                    f"CompileLayers: no C++ compiler {compiler!r} is on this machine, so the layers are not compiled; "
                    "install one, or name another in the environment variable CXX"
                )
                return
            for layer in layers_of(pl_module):
                layer.compile(**self.options)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what was compiled."""
        if stage == "fit":
            for layer in layers_of(pl_module):
                layer._compiled_call_impl = None


def _cpp_compiler() -> str:
    """What inductor calls, by its defaults."""
    return os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
