"""One training of the comparison: an arm and a seed, to its budget, from its last checkpoint where there is one."""

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from litseq.callbacks import AverageCheckpoints, StartFrom
from litseq.compare.building import build_data, build_module
from litseq.compare.files import CHECKPOINTS, CURVE, read_json, write_json, write_progress
from litseq.compare.flops import Cost, Tokens
from litseq.data import SequenceDataModule
from litseq.errors import DataError
from litseq.models import SequenceModule

_PROGRESS_SECONDS = 0.5
_SAMPLE_BATCHES = 64


class Curve(Callback):
    """Counts what is read and how long it takes, and notes every validation; a checkpoint holds it all."""

    def __init__(self, directory: Path, cost: Cost, steps: int | None, minutes: float | None) -> None:
        self.directory, self.cost, self.steps, self.minutes = directory, cost, steps, minutes
        self.tokens = Tokens()
        self.seconds = 0.0
        self.validation_seconds = 0.0
        self.points: list[dict[str, float]] = []
        self._mark = self._validation_mark = self._written = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        self.tokens.add(batch)
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now
        if now - self._written > _PROGRESS_SECONDS:
            self._written = now
            write_progress(self.directory, "training", self.fraction(trainer))

    def fraction(self, trainer: Trainer) -> float:
        """How much of the budget is used."""
        if self.minutes is not None:
            return min(1.0, self.seconds / (60 * self.minutes))
        return trainer.global_step / max(self.steps or 1, 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop counting as training."""
        self._validation_mark = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note a point of the curve."""
        now = time.perf_counter()
        self.validation_seconds += now - self._validation_mark
        self.seconds, self._mark = self.seconds + now - self._mark, now
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.points.append(
            {
                "step": trainer.global_step,
                "tokens": self.tokens.read,
                "seconds": round(self.seconds, 2),
                "flops": self.cost.training_flops(self.tokens),
                **metrics,
            }
        )
        write_json(self.directory / CURVE, self.points)

    def state_dict(self) -> dict[str, Any]:
        """Everything counted, in plain types."""
        names = ("seconds", "validation_seconds", "points")
        return {name: getattr(self, name) for name in names} | {"tokens": self.tokens.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was."""
        for name, value in state_dict.items():
            setattr(self, name, Tokens(**value) if name == "tokens" else value)


def attach(module: SequenceModule, data: SequenceDataModule) -> None:
    """Tell a data module which module it serves, where there is no trainer to ask."""
    # A stand-in of no trainer's class: the four things that a data module asks its trainer for.
    data.trainer = SimpleNamespace(lightning_module=module, world_size=1, global_rank=0, overfit_batches=0)  # type: ignore[assignment]
    data.check_model()


def prepare(module: SequenceModule, data: SequenceDataModule) -> None:
    """Read the training data for a module before there is a trainer, to see how many steps a budget is."""
    attach(module, data)
    data.setup("fit")


def steps_for(data: SequenceDataModule, tokens: int, accumulated: int = 1) -> int:
    """The optimizer steps in which prepared data has handed out `tokens` tokens, padding not counted.

    Args:
        data: The data.
        tokens: The budget.
        accumulated: Batches in a step; the last one of an epoch has those that are left.
    """
    loader = data.train_dataloader()
    sampler: Any = loader.batch_sampler
    lengths = loader.dataset.token_counts  # type: ignore[attr-defined]  # a SequenceDataset
    read = steps = epoch = 0
    whole = int(lengths.sum())
    while True:
        if read + whole <= tokens:  # every epoch has all examples, in as many batches
            read, steps, epoch = read + whole, steps + -(-len(sampler) // accumulated), epoch + 1
            continue
        for number, batch in enumerate(sampler.plan(epoch)):
            if number % accumulated == 0:  # where a step begins
                if read >= tokens:
                    break
                steps += 1
            read += int(lengths[batch].sum())
        return max(steps, 1)


def flops_per_token(module: SequenceModule, data: SequenceDataModule) -> float:
    """What a token costs in training, padding not counted, over some batches of prepared data."""
    loader = data.train_dataloader()
    tokens = Tokens()
    sampler: Any = loader.batch_sampler
    for batch in sampler.plan(0)[:_SAMPLE_BATCHES]:
        tokens.add(loader.collate_fn([loader.dataset[int(index)] for index in batch]))
    return Cost.of(module).training_flops(tokens) / tokens.read


def train(plan: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Train to the budget of a plan, from the last checkpoint in the directory if there is one.

    Returns:
        What it took, and under `checkpoint` the weights to export.
    """
    lightning.seed_everything(plan["seed"], verbose=False)
    module = build_module(plan["class_path"], plan["init_args"], f"arm {plan['arm']}")
    data = build_data(plan["data"]["class_path"], plan["data"]["init_args"])
    prepare(module, data)
    tokens, minutes = plan["budget"]["tokens"], plan["budget"]["minutes"]
    accumulated = plan["trainer"].get("accumulate_grad_batches", 1)
    steps = None if tokens is None else steps_for(data, tokens, accumulated)
    curve = Curve(directory, Cost.of(module), steps, minutes)
    trainer, saved = _trainer(plan, directory, curve, steps, minutes)
    last = directory / CHECKPOINTS / "last.ckpt"
    trainer.fit(module, data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    final = directory / CHECKPOINTS / "final.ckpt"
    trainer.save_checkpoint(final)
    if not curve.points or curve.points[-1]["step"] != trainer.global_step:
        trainer.validate(module, data, verbose=False)
        if curve.points[-1].get("val/loss") is None:
            raise DataError("there is no validation data: give val, or val_fraction of the data module")
    return {
        "checkpoint": str(_chosen(plan, saved, curve, final)),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "tokens": curve.tokens.read,
        "label_tokens": curve.tokens.labels,
        "padding": 1 - curve.tokens.read / max(curve.tokens.positions, 1),
        "seconds": curve.seconds,
        "validation_seconds": curve.validation_seconds,
        "tokens_per_second": curve.tokens.read / max(curve.seconds - curve.validation_seconds, 1e-9),
        "flops": curve.cost.training_flops(curve.tokens),
        "device": str(trainer.strategy.root_device.type),
        "device_peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "curve": curve.points,
    }


def _trainer(
    plan: dict[str, Any], directory: Path, curve: Curve, steps: int | None, minutes: float | None
) -> tuple[Trainer, ModelCheckpoint]:
    where = directory / CHECKPOINTS
    saved: ModelCheckpoint
    if plan["weights"] == "average":
        saved = AverageCheckpoints(last=plan["average_last"], dirpath=str(where))
    else:
        saved = ModelCheckpoint(where, "best", monitor="val/loss", enable_version_counter=False)
    resume = ModelCheckpoint(where, "last", save_top_k=1, enable_version_counter=False)
    limits: dict[str, Any] = {"max_steps": steps}
    batches = (steps or 0) * plan["trainer"].get("accumulate_grad_batches", 1)
    interval: Any = None if steps is None else max(1, -(-batches // plan["validations"]))
    if minutes is not None:
        limits = {"max_steps": -1, "max_epochs": -1, "max_time": timedelta(minutes=minutes)}
        interval = timedelta(minutes=minutes / plan["validations"])
    options = {
        "accelerator": "auto",
        "gradient_clip_val": 1.0,
        "val_check_interval": interval,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "devices": 1,
    }
    start = [StartFrom(plan["start_from"])] if "start_from" in plan else []
    return Trainer(callbacks=[*start, curve, saved, resume], **(options | limits | plan["trainer"])), saved


def _chosen(plan: dict[str, Any], saved: ModelCheckpoint, curve: Curve, final: Path) -> Path:
    """The checkpoint to export."""
    if plan["weights"] == "last":
        return final
    if isinstance(saved, AverageCheckpoints):
        return saved.average_path if saved.average_path.is_file() else final
    losses = [point["val/loss"] for point in curve.points]
    # The validation behind the last step, where there was one, is not the checkpoint callback's.
    return (
        final
        if not saved.best_model_path or losses[-1] <= min(losses[:-1], default=losses[-1])
        else Path(saved.best_model_path)
    )


def trained(directory: Path) -> dict[str, Any] | None:
    """What `train` gave in an earlier process, None where it did not get to its end."""
    found: dict[str, Any] | None = read_json(directory / "training.json")
    return found if found is not None and Path(found["checkpoint"]).is_file() else None
