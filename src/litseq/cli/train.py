"""`litseq fit|validate|test|predict`: stock LightningCLI over our modules and data modules."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from litseq.data import SequenceDataModule
from litseq.errors import UsageError
from litseq.models import SequenceModule
from litseq.models.checkpoint import read_checkpoint

CHECKPOINT_KEYWORDS = ("best", "last", "hpc", "registry", "null")
"""What `--ckpt_path` takes besides a path."""


class TrainCLI(LightningCLI):
    """LightningCLI in subclass mode; the vocabulary size of the data reaches the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the vocabulary: the data module may have to train its tokenizer before the model can be built."""
        parser.link_arguments("data.vocab_size", "model.init_args.vocab_size", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without the warning that arguments were passed on: that is how `litseq` works."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
            super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        """Take the model of the checkpoint, its class too: Lightning knows that of its own command line's only."""
        given = self.config[self.config.subcommand]
        path = given.get("ckpt_path")
        if not path or path in CHECKPOINT_KEYWORDS or Path(path).is_dir():
            return
        checkpoint = read_checkpoint(path)  # torch's own errors are long
        arguments = dict(checkpoint.get("hyper_parameters", {}))
        arguments.pop("_instantiator", None)
        class_path = arguments.pop("_class_path", checkpoint["litseq"]["class_path"])
        model = {"class_path": class_path, "dict_kwargs": arguments}
        self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)

    def instantiate_classes(self) -> None:
        """Build what the configuration describes; a value that cannot be is the user's to mend."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            raise UsageError(one_line(str(error))) from error


class OneLineParser(LightningArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Leave parsing."""
        hint = "; --help lists the options"
        raise UsageError(one_line(message).removesuffix(hint) + hint) from ex


class PredictionPrinter(BasePredictionWriter):
    """Prints each prediction on a line of standard output: a text, or token ids with spaces between."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to interleave the lines of several processes."""
        if trainer.world_size > 1:
            raise UsageError(
                f"litseq predict runs on {trainer.world_size} devices, and their lines would lose the order of the"
                " prompts: add --trainer.devices=1"
            )

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Print a batch; a line feed inside a text is written as backslash n, so that lines stay prompts."""
        for row in prediction or ():
            print(row.replace("\n", "\\n") if isinstance(row, str) else " ".join(map(str, row)), flush=True)


def one_line(message: str) -> str:
    """What jsonargparse says, without the alternatives that nobody meant and the dump of the whole value."""
    message, _, _ = message.partition("Given value type:")
    for noise in (
        r"- Expected a (<class 'NoneType'>|path but .* invalid)",
        r"Does not validate against any of the Union subtypes",
        r"Subtypes: \[[^]]*\]|\bErrors:|^\s*- ",
    ):
        message = re.sub(noise, "", message, flags=re.MULTILINE)
    return " ".join(message.split())


def run(argv: Sequence[str]) -> int:
    """Run one of Lightning's subcommands.

    Args:
        argv: The subcommand and its arguments.

    Returns:
        0.

    Raises:
        LitseqError: What the user can mend, in one line.
        SystemExit: The parser's, behind --help.
    """
    # A console script has its own directory on the path, not the user's; `class_path: my_module.MyModel` is in the
    # latter. Last, so that no file there can shadow an installed package.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # What Lightning calls is Lightning's matter, and nothing a user of a configuration can change.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    _check_configs(argv)
    options: dict[str, Any] = {}
    if argv[:1] == ["predict"]:
        # The progress bar would stand between the predictions.
        options["trainer_defaults"] = {"callbacks": PredictionPrinter(), "enable_progress_bar": False}
    if argv[:1] != ["fit"]:
        # Only a training is worth its record, and without a logger's directory a second record is refused.
        options["save_config_callback"] = None
    try:
        TrainCLI(
            SequenceModule,
            SequenceDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(argv),
            parser_class=OneLineParser,
            parser_kwargs={"prog": "litseq"},
            **options,
        )
    except MisconfigurationException as error:
        raise UsageError(one_line(str(error))) from error
    return 0


def _check_configs(argv: Sequence[str]) -> None:
    """Look at configurations before LightningCLI does, which lets the errors of their reader through."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        path = value if equals else "".join(argv[i + 1 : i + 2])
        if name in ("-c", "--config") and Path(path).is_file():
            _check_config(path)


def _check_config(path: str) -> None:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read as a configuration ({reason}), expected a YAML file") from error
    if not text.strip():
        raise UsageError(f"{path} is empty, expected a YAML file with model and data")
