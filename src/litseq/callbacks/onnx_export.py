"""`OnnxExport`: a trainer that ends with a verified bundle."""

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from litseq.bundle import check_target
from litseq.callbacks.average import AverageCheckpoints
from litseq.errors import ExportError, UsageError
from litseq.export.exporter import TOLERANCE, export_bundle
from litseq.models import SequenceModule, load_module
from litseq.text import Tokenizer

State = dict[str, Tensor]


class OnnxExport(Callback):
    """Write a bundle when `fit` has ended: of the best weights, the last ones, or an average of them.

    The best weights are those of a `ModelCheckpoint` that monitors the same metric, or else a copy this callback keeps
    in memory. Rank zero exports, the others wait. Nothing is written in a `fast_dev_run`, nor when training was
    interrupted; `litseq export` makes a bundle of any checkpoint.

    Args:
        dirpath: Directory of the bundle.
        monitor: Metric that says which weights are best, such as `val/loss`; needed for `weights="best"`.
        mode: Whether less (`min`) or more (`max`) of it is better.
        weights: `best`, `last`, `average` (of the last checkpoints, as `AverageCheckpoints` writes it) or `ema`, the
            running average that a `WeightAveraging` or `EMAWeightAveraging` callback keeps. None: `best` with `monitor`, else `last`. With an averaging callback, validation measures the average and
            the trainer ends with it, so that `best` and `last` are averages too.
        force: Replace a bundle that is there already.
        tolerance: Largest difference between torch and onnxruntime, see `litseq.export.export_bundle`.
        quantize: Write a quantised bundle.
    """

    def __init__(
        self,
        dirpath: str | Path,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        weights: Literal["best", "last", "average", "ema"] | None = None,
        force: bool = False,
        tolerance: float = TOLERANCE,
        quantize: Literal["int8", "int4"] | None = None,
    ) -> None:
        chosen = weights if weights is not None else ("last" if monitor is None else "best")
        if chosen not in ("best", "last", "average", "ema") or mode not in ("min", "max"):
            raise ValueError(
                f"OnnxExport: weights is {weights!r} and mode {mode!r}, expected best, last, average or ema, and min or "
                "max"
            )
        if chosen == "best" and monitor is None:
            raise ValueError("OnnxExport: weights='best' needs monitor, the metric to judge by, such as 'val/loss'")
        self.dirpath = Path(dirpath)
        self.monitor = monitor
        self.mode = mode
        self.weights = chosen
        self.force = force
        self.tolerance = tolerance
        self.quantize = quantize
        self._best_score: float | None = None
        self._best_state: State | None = None
        self._metrics: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before training what would fail after it."""
        if stage != "fit" or _is_dev_run(trainer):
            return
        if not isinstance(pl_module, SequenceModule):
            raise UsageError(f"OnnxExport exports subclasses of SequenceModule, not {type(pl_module).__name__}")
        if trainer.is_global_zero:
            check_target(self.dirpath, force=self.force)
        if self.weights == "ema" and _averaging(trainer) is None:
            raise UsageError(
                "OnnxExport: weights='ema' needs an averaging callback beside it: add "
                "lightning.pytorch.callbacks.EMAWeightAveraging to the trainer"
            )
        if self.weights == "average" and _averager(trainer) is None:
            raise UsageError(
                "OnnxExport: weights='average' needs the callback that averages checkpoints beside it: add "
                "litseq.callbacks.AverageCheckpoints to the trainer"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module without a tokenizer, now that the data or a checkpoint has had its chance to bring one."""
        if not _is_dev_run(trainer):
            _tokenizer(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights when they are the best so far."""
        if self.weights != "best" or not _is_fitting(trainer):
            return
        score = trainer.callback_metrics.get(str(self.monitor))
        if score is None:
            raise UsageError(
                f"OnnxExport monitors {self.monitor!r}, which was not logged; logged are "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        value = float(score)
        if self._best_score is None or (value < self._best_score if self.mode == "min" else value > self._best_score):
            self._best_score = value
            self._metrics = _plain(trainer.callback_metrics)
            if _checkpoint_of(trainer, self.monitor, self.mode) is None:
                self._best_state = self._measured_state(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export on rank zero."""
        if _is_dev_run(trainer) or trainer.interrupted:
            return
        # Gathering sharded weights takes every rank, so it happens before the ranks part.
        last = (
            None
            if self.weights in ("best", "average")
            else self._measured_state(trainer, averaged=self.weights == "ema")
        )
        if trainer.is_global_zero:
            self._export(trainer, pl_module, last)
        trainer.strategy.barrier("OnnxExport")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on judging."""
        return {"best_score": self._best_score, "metrics": self._metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on judging where the checkpoint was written."""
        self._best_score = state_dict["best_score"]
        self._metrics = state_dict["metrics"]

    def _export(self, trainer: Trainer, pl_module: LightningModule, last: State | None) -> None:
        assert isinstance(pl_module, SequenceModule)
        metrics = self._metrics if self.weights == "best" else _plain(trainer.callback_metrics)
        path = self._checkpoint_path(trainer)
        if path is not None:
            module = load_module(path)
        else:
            state = last if last is not None else self._best_state
            if state is None:
                raise ExportError(
                    f"no weights were kept: {self.monitor!r} was not better in this run than before it was resumed; add "
                    f"a ModelCheckpoint that monitors {self.monitor!r}, which keeps the best weights on disk"
                )
            module = copy.deepcopy(pl_module).cpu()
            module.load_state_dict(state)
            module.eval()
        report = export_bundle(
            module,
            _tokenizer(module),
            self.dirpath,
            force=self.force,
            tolerance=self.tolerance,
            metrics=metrics,
            quantize=self.quantize,
        )
        rank_zero_info(
            f"OnnxExport: {self.dirpath} holds the {self.weights} weights; largest error of a logit "
            f"{report.max_error:.1e}, greedy tokens equal at {report.token_agreement:.1%} of {report.positions} positions"
        )

    def _checkpoint_path(self, trainer: Trainer) -> Path | None:
        """The file that holds the wanted weights, where another callback has written one."""
        if self.weights == "average":
            averager = _averager(trainer)
            assert averager is not None
            if averager.best_k_models:
                return averager.average_path
            raise ExportError("AverageCheckpoints has kept no checkpoint: no validation was run, so nothing to average")
        checkpoint = _checkpoint_of(trainer, self.monitor, self.mode) if self.weights == "best" else None
        best = Path(checkpoint.best_model_path) if checkpoint is not None else None
        return best if best is not None and best.is_file() else None

    def _measured_state(self, trainer: Trainer, averaged: bool = True) -> State:
        """The weights that validation measured, on the CPU: the average where one is kept."""
        averaging = _averaging(trainer) if averaged else None
        if averaging is not None:
            source = averaging._average_model.module.state_dict()  # type: ignore[union-attr]  # Lightning has no accessor
        else:
            source = trainer.strategy.lightning_module_state_dict()
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in source.items()}


def _tokenizer(module: LightningModule) -> Tokenizer:
    assert isinstance(module, SequenceModule)
    tokenizer = module.record.load_tokenizer()
    if tokenizer is None:
        raise UsageError(
            "OnnxExport: the module has met no tokenizer, and a bundle needs one: give the data module an attribute "
            "tokenizer, a litseq.text.Tokenizer, or call litseq.export.export_bundle(module, tokenizer, directory)"
        )
    return tokenizer


def _is_fitting(trainer: Trainer) -> bool:
    return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not _is_dev_run(trainer)


def _is_dev_run(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))  # set where no type checker sees it


def _averaging(trainer: Trainer) -> WeightAveraging | None:
    return next((c for c in trainer.callbacks if isinstance(c, WeightAveraging)), None)  # type: ignore[attr-defined]  # set where mypy does not look


def _averager(trainer: Trainer) -> AverageCheckpoints | None:
    return next((c for c in trainer.checkpoint_callbacks if isinstance(c, AverageCheckpoints)), None)


def _checkpoint_of(trainer: Trainer, monitor: str | None, mode: str) -> ModelCheckpoint | None:
    """A checkpoint callback that judges by the same metric."""
    return next(
        (
            c
            for c in trainer.checkpoint_callbacks
            if isinstance(c, ModelCheckpoint) and (c.monitor, c.mode) == (monitor, mode)
        ),
        None,
    )


def _plain(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float, torch.Tensor))}
