"""`StartFrom`: fine-tuning."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from litseq.errors import CheckpointError, UsageError
from litseq.models.base import SequenceModule
from litseq.models.checkpoint import read_checkpoint
from litseq.models.record import rename_state


class StartFrom(Callback):
    """Start a training with the weights of another one: fine-tune what was pre-trained.

    Only weights are taken, averaged ones where there are any: the optimiser, the schedule and the data begin anew, unlike
    with `ckpt_path`, which goes on with a training. A training that is itself resumed keeps its own weights.

    Args:
        checkpoint: A checkpoint of a model with the same layers, whose tokenizer is that of the data: give the data module
            its `tokenizer`.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self.checkpoint = Path(checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the weights.

        Raises:
            CheckpointError: The file cannot be read, or is of a model with other weights.
            UsageError: Its tokenizer is not that of the data.
        """
        if trainer.ckpt_path is not None:
            return
        if not isinstance(pl_module, SequenceModule):
            raise UsageError(f"StartFrom is for modules of litseq, found {type(pl_module).__name__}")
        if any(isinstance(parameter, DTensor) for parameter in pl_module.parameters()):
            raise UsageError(
                "StartFrom cannot fill weights that are sharded already; load them with litseq.models.load_module, and"
                " give that module to the Trainer"
            )
        checkpoint = read_checkpoint(self.checkpoint)
        theirs, ours = checkpoint["litseq"].get("tokenizer"), pl_module.record.tokenizer_json
        if theirs is not None and ours is not None and theirs != ours:
            # The ids would mean other words.
            raise UsageError(
                f"the tokenizer of the data is not that of {self.checkpoint}: give the data module tokenizer= the"
                " tokenizer.json that the checkpoint was trained with"
            )
        state = dict(checkpoint["state_dict"])
        rename_state(state, pl_module.state_dict().keys())
        _check_same(state, pl_module, self.checkpoint)
        pl_module.load_state_dict(state)


def _check_same(state: dict[str, object], module: LightningModule, path: Path) -> None:
    ours = module.state_dict()
    different = sorted(
        f"{name} is {_shape(state.get(name))} there and {_shape(ours.get(name))} here"
        for name in state.keys() | ours.keys()
        if _shape(state.get(name)) != _shape(ours.get(name))
    )
    if different:
        raise CheckpointError(
            f"{path} is of another model: {', '.join(different[:3])}{' and more' if len(different) > 3 else ''}; build"
            " the model with the same arguments"
        )


def _shape(value: object) -> str:
    shape = getattr(value, "shape", None)
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"
