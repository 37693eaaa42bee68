"""`AverageCheckpoints`: the mean of the last checkpoints."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from litseq.callbacks.order import come_before
from litseq.models.averaging import average_checkpoints


class AverageCheckpoints(ModelCheckpoint):
    """Keep the weights of the last `last` validations, and write their mean when training ends.

    The mean of late checkpoints is usually better than each of them, above all at a learning rate that has not fallen to
    zero (https://arxiv.org/abs/1706.03762, section 6.1; https://arxiv.org/abs/1803.05407). It costs nothing in training.

    Args:
        last: How many checkpoints.
        dirpath: Where they go; the logger's `checkpoints` directory when it is not given.
        every_n_train_steps: Keep one every so many optimizer steps instead of at every validation.
        every_n_epochs: Keep one every so many epochs instead.
        filename: Name of the averaged checkpoint, without `.ckpt`.
    """

    def __init__(
        self,
        last: int = 5,
        dirpath: str | None = None,
        every_n_train_steps: int | None = None,
        every_n_epochs: int | None = None,
        filename: str = "average",
    ) -> None:
        if last < 1:
            raise ValueError(f"AverageCheckpoints: last is {last}, expected at least 1")
        super().__init__(
            dirpath=dirpath,
            filename="to-average-{step}",
            monitor="step",  # the largest: the last ones
            mode="max",
            save_top_k=last,
            save_weights_only=True,
            every_n_train_steps=every_n_train_steps,
            every_n_epochs=every_n_epochs,
        )
        self.average_name = filename

    @property
    def average_path(self) -> Path:
        """The averaged checkpoint, once training has ended."""
        return Path(str(self.dirpath)) / f"{self.average_name}.ckpt"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come before the other checkpoints, so that one to resume from knows of all that is to be averaged by then."""
        super().setup(trainer, pl_module, stage)
        come_before(trainer, self, Checkpoint)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what the resumed run has kept, though a logger gives every run a directory of its own."""
        kept = {path: step for path, step in state_dict["best_k_models"].items() if Path(path).is_file()}
        super().load_state_dict(state_dict | {"dirpath": self.dirpath, "best_k_models": kept})
        # Inside an accumulation the step stays what it is: Lightning, which forgets this, would keep it twice.
        self._last_global_step_saved = int(max(kept.values(), default=0))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Average on rank zero; the others wait."""
        super().on_train_end(trainer, pl_module)
        paths = sorted(self.best_k_models, key=lambda path: float(self.best_k_models[path]))
        if trainer.is_global_zero and paths:
            average_checkpoints(paths, self.average_path, force=True)
            rank_zero_info(f"AverageCheckpoints: {self.average_path} is the mean of {len(paths)} checkpoints")
        trainer.strategy.barrier("AverageCheckpoints")
