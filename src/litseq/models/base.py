"""What every sequence model shares as a LightningModule: loss, metrics, optimiser, checkpoint record."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from litseq.generation.plain import plain
from litseq.models.hardware import lacks_bfloat16
from litseq.models.loss import LossSum, token_cross_entropy
from litseq.models.memory import keep_freed_memory
from litseq.models.metrics import LoaderMetrics, TokenMean, text_bytes
from litseq.models.optim import (
    ScheduleName,
    default_optimizer,
    has_time_limit,
    learning_rate_factor,
    parameter_groups,
    time_fraction,
)
from litseq.models.progress import close_epoch, reopen_epoch
from litseq.models.record import CheckpointRecord, plain_hyper_parameters, rename_state, step_seed
from litseq.models.sharding import shard_layers
from litseq.models.window import TokenWindow
from litseq.nn import TransformerDecoder

NOT_HYPERPARAMETERS = ("optimizer", "scheduler")
"""Arguments that are code: a checkpoint with them could not be loaded under `weights_only`."""

WINDOW_KEY = "litseq_window"
"""Where a checkpoint keeps what was accumulated for the next optimizer step."""

Architecture = Literal["encoder-decoder", "decoder-only"]


class SequenceModule(LightningModule, ABC):
    """A model of sequences, trained by the mean loss over the tokens of an optimizer step.

    Made to be subclassed. These methods are seams, stable and tested: `build_encoder` and `build_decoder` of the two
    architectures, `compute_loss`, `configure_optimizers`, `generation_options`. Inside `build_encoder` and
    `build_decoder` the arguments of the outermost subclass are in `self.hparams` already.

    Args:
        vocab_size: Number of tokens; a data module of litseq knows it.
        max_seq_len: The longest sequence, in tokens.
        label_smoothing: Share of probability spread over the whole vocabulary in training.
        learning_rate: The highest learning rate of the default optimiser.
        weight_decay: Weight decay of matrices; norms, biases and embeddings have none.
        warmup_steps: Optimizer steps until the learning rate is reached.
        schedule: What the learning rate does behind the warm-up.
        optimizer: Makes another optimiser from parameter groups, such as
            `lambda groups: torch.optim.SGD(groups, lr=0.1)`; learning_rate and weight_decay are without effect then.
        scheduler: Makes another schedule from the optimiser, stepped every optimizer step, or every epoch on `val/loss`
            when it is a ReduceLROnPlateau; warmup_steps and schedule are without effect then.
    """

    architecture: ClassVar[Architecture]
    decoder: TransformerDecoder

    def __init__(
        self,
        *,
        vocab_size: int,
        max_seq_len: int,
        label_smoothing: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 400,
        schedule: ScheduleName = "inverse_sqrt",
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        # Averaging callbacks warn of `configure_model`, which does nothing where they can be used.
        warnings.filterwarnings(
            "ignore", message="You're using the WeightAveraging callback with a model that overrides"
        )
        # Walks up the frames: the arguments of every subclass are saved too, merged.
        self.save_hyperparameters(ignore=list(NOT_HYPERPARAMETERS))
        # A subclass may fix these in its call instead of taking them.
        self.hparams.update(vocab_size=vocab_size, max_seq_len=max_seq_len)
        # Plain, since the optimizer's state goes into checkpoints with its learning rate.
        self.label_smoothing: float = plain(label_smoothing)
        self.learning_rate: float = plain(learning_rate)
        self.weight_decay: float = plain(weight_decay)
        self.warmup_steps: int = plain(warmup_steps)
        self.schedule: ScheduleName = schedule
        self._optimizer_factory = optimizer
        self._scheduler_factory = scheduler

        self.record = CheckpointRecord()
        self.train_loss = TokenMean()
        self.val_metrics = LoaderMetrics()
        self.test_metrics = LoaderMetrics()
        self._window = TokenWindow()
        self._open_window: dict[str, Any] | None = None
        self._time_fraction = 0.0
        self._schedule_needs_time = False

    @abstractmethod
    def hidden_states(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Run the stacks on a batch up to what the output projection reads, [B, T, D]."""

    @abstractmethod
    def prompts(self, batch: Mapping[str, Tensor]) -> list[list[int]]:
        """The part of each row that is given at generation, without padding."""

    def compute_loss(self, batch: Mapping[str, Tensor]) -> LossSum:
        """The loss of a batch, summed over its tokens (seam).

        Label smoothing takes part in training only, so that `exp(val/loss)` is the perplexity.

        Args:
            batch: See `litseq.nn.batch`.

        Returns:
            Sum and count; a mean would be wrong here, see `LossSum`.
        """
        return token_cross_entropy(
            self.hidden_states(batch),
            batch["labels"],
            self.decoder.logits,
            label_smoothing=self.label_smoothing if self.training else 0.0,
            count_correct=not self.training,
        )

    def generation_options(self) -> dict[str, Any]:
        """Defaults of generation, in the words of `litseq.generation`; they go into the bundle too (seam)."""
        return {"max_new_tokens": min(256, int(self.hparams["max_seq_len"]))}

    def configure_model(self) -> None:
        """Shard the layers under `ModelParallelStrategy` (FSDP2); under every other strategy nothing is to be done."""
        if self._trainer is not None:  # it is called when a checkpoint is loaded, too
            shard_layers(self, self._trainer.strategy)

    def setup(self, stage: str) -> None:
        """Learn from the data module what a checkpoint and a bundle must know, and check that the vocabulary fits."""
        self._window.clear()
        self._open_window = None
        if stage == "fit":
            if self.trainer.strategy.root_device.type == "cpu":
                keep_freed_memory()
                if str(self.trainer.precision).startswith("bf16") and lacks_bfloat16():
                    rank_zero_info(
                        f"precision {self.trainer.precision}: this processor has no bfloat16 instructions and multiplies"
                        " such matrices slowly; 32-true is faster here"
                    )
            # A resumed run takes the seed of its checkpoint instead, behind this hook.
            self.record.seed = int(self.trainer.strategy.broadcast(torch.initial_seed()))
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self.record.take_from(datamodule, int(self.hparams["vocab_size"]), fitting=stage == "fit")

    def on_train_start(self) -> None:
        """Go on with the gradients of a checkpoint that was written between two micro-batches of a step."""
        if self._open_window is not None and self.trainer.world_size == 1:
            self._window.load_state_dict(self._open_window, self.named_parameters())
        self._open_window = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed the random numbers of a step by its place in the training.

        So dropout does not depend on what happened before, and a resumed run draws what the uninterrupted one drew.
        """
        torch.manual_seed(step_seed(self.record.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Hand out a mean with the gradient of the sum; `on_before_optimizer_step` makes that a mean over all tokens."""
        return self._account(self.compute_loss(batch))

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure a batch of one of the loaders."""
        self._measure("val", self.val_metrics, dataloader_idx, self.compute_loss(batch), batch)

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure a batch of one of the loaders."""
        self._measure("test", self.test_metrics, dataloader_idx, self.compute_loss(batch), batch)

    def predict_step(
        self, batch: Mapping[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> list[str] | list[list[int]]:
        """Generate a continuation of every prompt of the batch.

        Returns:
            Texts when the tokenizer is known (from the data module or the checkpoint), else token ids.
        """
        from litseq.models.predict import generate  # it imports this file

        return generate(self, self.prompts(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The injected optimiser and schedule, or AdamW with warm-up (seam)."""
        optimizer: Optimizer
        if self._optimizer_factory is not None:
            optimizer = self._optimizer_factory(parameter_groups(self))
        else:
            optimizer = default_optimizer(self, self.learning_rate, self.weight_decay)
        if self._scheduler_factory is None:
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": self._default_scheduler(optimizer), "interval": "step"},
            }
        scheduler = self._scheduler_factory(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "val/loss")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn the accumulated gradient of sums into the gradient of the mean over tokens.

        Lightning calls this before it clips. Callbacks with the same hook run earlier and see the sums.
        """
        closed = self._window.close(self.trainer, self.parameters())
        if closed is None:
            return
        loss, used_time = closed
        # Over all ranks and micro-batches already: a per-batch value would jump with the batches' sizes.
        self.log("train/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
        if self._schedule_needs_time:
            self._time_fraction = used_time.item()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record under `litseq` what restores the subclass and serves the model."""
        checkpoint["litseq"] = self.record.to_dict(self)
        reopen_epoch(checkpoint, self.trainer)
        close_epoch(checkpoint, self.trainer)
        # The gradients of other ranks are not at hand.
        if "optimizer_states" in checkpoint and self.trainer.world_size == 1:
            checkpoint[WINDOW_KEY] = self._window.state_dict(self.named_parameters())
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in NOT_HYPERPARAMETERS:  # a subclass that saves its own arguments brings them in again
            hyper_parameters.pop(name, None)
        for key in (self.CHECKPOINT_HYPER_PARAMS_KEY, LightningDataModule.CHECKPOINT_HYPER_PARAMS_KEY):
            if key in checkpoint:
                checkpoint[key] = plain_hyper_parameters(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the record back, and weights saved from or into compiled layers."""
        self.record.restore(checkpoint.get("litseq") or {})
        self._open_window = checkpoint.get(WINDOW_KEY)
        rename_state(checkpoint["state_dict"], self.state_dict().keys())

    # Under torch.compile Lightning's `log` is code that dynamo cannot trace and need not.
    @torch.compiler.disable
    def _account(self, loss: LossSum) -> Tensor:
        self.train_loss.update(loss.loss_sum, loss.token_count)
        self.log("train/loss_epoch", self.train_loss, on_step=False, on_epoch=True)
        return self._window.add(loss, time_fraction(self.trainer) if self._schedule_needs_time else 0.0)

    @torch.compiler.disable
    def _measure(
        self, stage: str, metrics: LoaderMetrics, loader: int, loss: LossSum, batch: Mapping[str, Tensor]
    ) -> None:
        tokenizer, labels = self.record.load_tokenizer(), batch.get("labels")
        byte_count = None if tokenizer is None or labels is None else text_bytes(tokenizer, labels)
        for name, metric in metrics.of(loader).update(loss, byte_count).items():
            self.log(
                f"{stage}/{name}",
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=name == "loss",
                # Lightning looks for metrics once, before those of further loaders are there.
                metric_attribute=f"{stage}_metrics.{loader}.{name}",
            )

    def _default_scheduler(self, optimizer: Optimizer) -> LambdaLR:
        timed = has_time_limit(self.trainer)
        # Ranks measure time apart; the fraction they agreed on at the last step keeps their learning rates equal.
        self._schedule_needs_time = timed and self.schedule == "cosine"
        factor = learning_rate_factor(
            self.schedule,
            self.warmup_steps,
            float(self.trainer.estimated_stepping_batches),
            used_time=(lambda: self._time_fraction) if timed else None,
        )
        return LambdaLR(optimizer, factor)
