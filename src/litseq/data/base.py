"""`SequenceDataModule`: what all DataModules share; a subclass says how files become columns of text and examples."""

import hashlib
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, ClassVar

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.parsing import collect_init_args
from torch.utils.data import DataLoader

from litseq.data.collate import CollateDecoderOnly, CollateEncoderDecoder, CollatePrompts
from litseq.data.datasets import PromptDataset, SequenceDataset
from litseq.data.holdout import hold_out
from litseq.data.hub import dataset_source
from litseq.data.lines import BadLines, check_file, file_facts
from litseq.data.loader import ResumableLoader
from litseq.data.ragged import Ragged
from litseq.data.samplers import EpochPosition, EpochSampler, TokenBatchSampler
from litseq.data.sources import Columns, Paths, Records, Source, flat_paths, plain_paths
from litseq.data.streams import StreamPosition, begun_batches, of_all_ranks
from litseq.data.windows import model_facts, stream_loader, without_trainer
from litseq.errors import DataError, UsageError
from litseq.text import PromptFormat, Tokenizer

ENCODER_DECODER, DECODER_ONLY = "encoder-decoder", "decoder-only"

_STAGE_SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class SequenceDataModule(LightningDataModule, ABC):
    """Reads text, trains or loads the tokenizer, and serves batches under a token budget to either architecture.

    The files of a split are read and encoded once; what depends on the model (its architecture, the positions it has) is
    settled at `setup`. A subclass gives `read`, `read_prompts`, `make_prompt_format` and `make_dataset`.
    """

    default_architecture: ClassVar[str]
    """The architecture served when neither the argument nor a model says which."""

    def __init__(
        self,
        train: Paths,
        val: Paths,
        test: Paths,
        predict: Paths,
        val_fraction: float,
        vocab_size: int,
        tokenizer: str | None,
        tokenizer_kind: str,
        max_tokens: int,
        loss_on: str,
        architecture: str | None,
        num_workers: int,
        pin_memory: bool,
        seed: int,
        on_bad_line: str,
    ) -> None:
        super().__init__()
        # Not logged: the logger would refuse a vocabulary size that differs from the model's, which is the trained one.
        self.save_hyperparameters(logger=False)
        # What arrives here counts: a subclass may change an argument in its call, or fix one, of which LightningCLI
        # knows nothing. The innermost constructor comes last.
        for arguments in reversed(collect_init_args(inspect.stack(0)[0].frame, [], classes=(LightningDataModule,))):
            self.save_hyperparameters(arguments, logger=False)
        plain = {name: plain_paths(self.hparams[name]) for name in (*_SPLIT_NAMES, "tokenizer")}
        self.save_hyperparameters(plain, logger=False)
        if architecture not in (None, ENCODER_DECODER, DECODER_ONLY):
            raise ValueError(f"architecture={architecture!r}, expected {ENCODER_DECODER!r} or {DECODER_ONLY!r}")
        if loss_on not in ("target", "all"):
            raise ValueError(f"loss_on={loss_on!r}, expected 'target' or 'all'")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}, expected at least 0 and below 1")
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}, expected a positive number of tokens")
        self._tokenizer: Tokenizer | None = None
        self._columns: dict[str, Columns] = {}
        self._encoded: dict[str, tuple[Any, ...]] = {}
        self._datasets: dict[str, SequenceDataset] = {}
        self._dataset_keys: dict[str, tuple[str, int | None, bool]] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._position, self._stream_position = EpochPosition(), StreamPosition()
        self._seen_model: Any = None
        found = {split: dataset_source(self.hparams[split], split) for split in _SPLIT_NAMES}
        self._sources = {split: source for split, source in found.items() if source is not None}
        if self._streams("predict") or (self._streams("train") and self._cuts_validation):
            what = "predict" if self._streams("predict") else "val_fraction"
            raise UsageError(
                f"{what}= does not go with streaming=True, which knows no end; read a dataset whole for it"
            )
        BadLines(on_bad_line)  # refuses an unknown policy now and not behind an hour of reading

    # What a subclass gives.

    @abstractmethod
    def read(self, given: Source, bad: BadLines) -> Columns:
        """Read files, or rows of a dataset, into columns of text of one length: sources and targets, or documents."""

    @abstractmethod
    def read_prompts(self, given: Source, bad: BadLines) -> list[Any]:
        """Read what `predict` names into the texts to generate from."""

    @abstractmethod
    def make_prompt_format(self) -> PromptFormat:
        """What goes around a prompt for `self.architecture`, the same in training and in serving."""

    @abstractmethod
    def make_dataset(self, columns: tuple[Any, ...]) -> tuple[SequenceDataset, dict[str, int]]:
        """Examples from encoded columns, and the number of those left out by reason."""

    # What a subclass whose columns are no plain texts gives besides.

    @property
    def special_tokens(self) -> Sequence[str]:
        """More special tokens for a tokenizer that is trained."""
        return ()

    def tokenizer_texts(self, columns: Columns) -> Iterable[str]:
        """What a tokenizer is trained on."""
        return chain(*columns)

    def encode(self, columns: Columns) -> tuple[Any, ...]:
        """Columns as ids, once for all models."""
        return tuple(Ragged.from_lists(self.tokenizer.iter_encode(column)) for column in columns)

    def make_prompts(self, column: Any) -> PromptDataset:
        """The prompts of `predict`, from the encoded column of `read_prompts`."""
        form = self.prompt_format
        return PromptDataset(column.enclose(form.prefix_ids, form.suffix_ids))

    # What a module and an exporter read.

    @property
    def architecture(self) -> str:
        """The architecture the batches are made for: as given, else the model's, else the default of this data."""
        given: str | None = self.hparams["architecture"]
        found: str | None = getattr(self._module, "architecture", None)
        return given or found or self.default_architecture

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: loaded, or trained on the training files at the first use."""
        if self._tokenizer is None:
            if self.hparams["tokenizer"] is not None:
                self._tokenizer = Tokenizer.load(self.hparams["tokenizer"])
            elif self.hparams["train"] is None:
                raise DataError("there is no tokenizer: give train= to train one or tokenizer= to load one")
            else:
                # A validation file that is missing is better noticed now than behind the training of a tokenizer.
                for split in ("train", "val"):
                    for path in flat_paths(self.hparams[split]) if split not in self._sources else ():
                        check_file(path)
                sample = self._sources["train"].sample() if self._streams("train") else None
                columns = self._load("train") if sample is None else self.read_all(sample)
                texts, special = self.tokenizer_texts(columns), self.special_tokens
                kind, size = self.hparams["tokenizer_kind"], self.hparams["vocab_size"]
                self._tokenizer = Tokenizer.train(texts, vocab_size=size, kind=kind, special_tokens=special)
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Rows an embedding needs; below the size asked for when the training text has too few distinct pieces."""
        return self.tokenizer.vocab_size

    @property
    def prompt_format(self) -> PromptFormat:
        """What goes around a prompt."""
        return self.make_prompt_format()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Plain facts about the data read so far: files with sizes and hashes, counts, what was left out, options."""
        hidden = (*_SPLIT_NAMES, "num_workers", "pin_memory")
        # Names with an underscore are LightningCLI's own notes.
        options = {k: v for k, v in self.hparams.items() if k not in hidden and not k.startswith("_")}
        digest = hashlib.sha256(self.tokenizer.to_json().encode()).hexdigest()
        return {
            "class": type(self).__name__,
            "architecture": self.architecture,
            "splits": {split: dict(facts) for split, facts in self._facts.items()},
            "tokenizer": {"vocab_size": self.vocab_size, "sha256": digest},
            "options": options,
        }

    # Lightning's hooks. `prepare_data` is left alone: there is nothing to download, and each process reads for itself.

    def setup(self, stage: str | None = None) -> None:
        """Read, encode and filter the splits of a stage; what is there already is kept."""
        self.check_model()
        if stage not in (None, *_STAGE_SPLITS):
            raise ValueError(f"stage {stage!r} is unknown, expected None or one of {', '.join(_STAGE_SPLITS)}")
        wanted = _SPLIT_NAMES if stage is None else _STAGE_SPLITS[stage]
        for split in wanted:
            if self._has(split):
                self._prepare(split)
            elif stage is not None and not (stage == "fit" and split == "val"):
                raise DataError(f"no data for this stage: give {split}= a file")

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches; under `overfit_batches` the same ones in every epoch."""
        return self._loader("train", shuffle=not getattr(self.trainer, "overfit_batches", 0))

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches in a fixed order; none when there is no validation data."""
        if self._has("val"):
            return self._loader("val")
        # An empty list is how Lightning is told that there is none; it warns all the same.
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return []

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches in a fixed order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts in the order of the file."""
        return self._loader("predict", bucket=False)

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, for a checkpoint."""
        if not self._streams("train"):
            return {"position": self._position.state_dict()}
        state = self._stream_position.state_dict(*begun_batches(self.trainer))
        return {"streams": of_all_ranks(state, self.ranks[0])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at that place when training is resumed."""
        if "position" in state_dict:
            self._position.load_state_dict(state_dict["position"])
            return
        states, (ranks, rank) = state_dict["streams"], self.ranks
        if len(states) != ranks:
            raise UsageError(
                f"the checkpoint is of {len(states)} ranks reading a stream, expected {ranks}: use as many"
            )
        self._stream_position.load_state_dict(states[rank])

    # How it is done.

    def check_model(self) -> None:
        """Refuse options that do not go with the model, before anything is read."""
        given, model = self.hparams["architecture"], getattr(self._module, "architecture", None)
        if None not in (given, model) and given != model:
            raise UsageError(
                f"the data has architecture={given!r} and the model is {model!r}; leave it unset to follow the model"
            )
        if self._prefix_lm and self.hparams["loss_on"] == "all":
            raise UsageError(
                "loss_on='all' does not go with a prefix_lm model, which sees the tokens of a prefix before it is to "
                "predict them; use loss_on='target'"
            )

    @property
    def _module(self) -> Any:
        """The model, or what a copy without trainer was told of it."""
        return getattr(self.trainer, "lightning_module", self._seen_model)

    @property
    def ranks(self) -> tuple[int, int]:
        """How many processes train, and which of them this is."""
        return getattr(self.trainer, "world_size", 1), getattr(self.trainer, "global_rank", 0)

    def _streams(self, split: str) -> bool:
        return split in self._sources and self._sources[split].streaming

    @property
    def _max_seq_len(self) -> int | None:
        """The positions the model has, None where there is no model or it does not say."""
        limit: int | None = getattr(getattr(self._module, "hparams", None), "max_seq_len", None)
        return limit

    @property
    def _prefix_lm(self) -> bool:
        return bool(model_facts(self._module).hparams.prefix_lm)

    def detached(self) -> "SequenceDataModule":
        """A copy without trainer and texts, which knows of the model what batches depend on: for worker processes."""
        copied = without_trainer(self)
        copied._seen_model = model_facts(self._module)
        copied._columns, copied._encoded, copied._datasets = {}, {}, {}
        return copied

    def _has(self, split: str) -> bool:
        if split == "val" and self.hparams["val"] is None:
            return self.hparams["train"] is not None and self.hparams["val_fraction"] > 0
        return self.hparams[split] is not None

    def _prepare(self, split: str) -> None:
        key = (self.architecture, self._max_seq_len, self._prefix_lm)
        if self._streams(split):
            self._facts[split] = {"dataset": self._sources[split].facts()}
        if self._streams(split) or self._dataset_keys.get(split) == key:
            return
        if split not in self._encoded:
            _ = self.tokenizer  # before the texts of another split than its own are in memory
            self._encoded[split] = self.encode(self._load(split))
            del self._columns[split]  # the texts are needed no more, and are the larger half
        if split == "predict":
            dataset: SequenceDataset = self.make_prompts(self._encoded[split][0])
            dropped: dict[str, int] = {}
        else:
            dataset, dropped = self.make_dataset(self._encoded[split])
        self._facts[split] |= {"examples": len(dataset), "tokens": dataset.tokens, "dropped": dropped, **dataset.facts}
        left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        if not len(dataset):
            raise DataError(f"no example of {split}= is left ({left_out or 'the files have none'})")
        if left_out:
            rank_zero_info(f"{split}: {len(dataset)} examples kept, left out {left_out}")
        self._datasets[split], self._dataset_keys[split] = dataset, key

    def _load(self, split: str) -> Columns:
        """The texts of a split; a validation split cut from the training files is cut when either is first asked for."""
        if split not in self._columns:
            name = "train" if split == "val" and self.hparams["val"] is None else split
            source, paths = self._sources.get(name), self.hparams[name]
            bad = BadLines(self.hparams["on_bad_line"])
            columns = self.read_all(paths if source is None else source.records(), bad, prompts=split == "predict")
            if not columns[0]:
                label = ", ".join(flat_paths(paths)) if source is None else source.label
                raise DataError(f"{label}: no example in it, expected at least one")
            if source is None:
                facts: dict[str, Any] = {"files": [file_facts(path) for path in flat_paths(paths)]}
            else:
                facts = {"dataset": source.facts()}
            facts["bad_lines"] = bad.total
            parts = {split: columns}
            if split in ("train", "val") and self._cuts_validation:
                parts = hold_out(columns, self.hparams["val_fraction"], self.hparams["seed"])
            for name, part in parts.items():
                self._facts.setdefault(name, dict(facts))
                self._columns[name] = part
        return self._columns[split]

    def read_all(self, given: Source, bad: BadLines | None = None, prompts: bool = False) -> Columns:
        """Read files or a dataset, and say at the end what could not be."""
        if not isinstance(given, Records) and (source := dataset_source(given, "test")) is not None:
            given = source.records()
        bad = bad or BadLines(self.hparams["on_bad_line"])
        columns = (self.read_prompts(given, bad),) if prompts else self.read(given, bad)
        bad.finish()
        return columns

    @property
    def _cuts_validation(self) -> bool:
        """Whether the validation split is cut from the training files."""
        return self.hparams["val"] is None and self.hparams["val_fraction"] > 0

    def _loader(self, split: str, shuffle: bool = False, bucket: bool = True) -> DataLoader[Any]:
        if self._streams(split):
            _ = self.tokenizer  # before the copies of this module that worker processes get
            position = self._stream_position if split == "train" else StreamPosition()
            return stream_loader(self, self._sources[split], position, shuffle, agree=split == "train")
        dataset = self._datasets.get(split)
        if dataset is None:
            raise RuntimeError(f"there is no {split} data yet: call setup() first, with {split}= given")
        batches = self.make_sampler(
            dataset, *self.ranks, shuffle, bucket, position=self._position if split == "train" else None
        )
        loader: type[DataLoader[Any]] = ResumableLoader if split == "train" else DataLoader
        return loader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.make_collate(dataset),
            num_workers=self.hparams["num_workers"],
            pin_memory=self.hparams["pin_memory"],
            persistent_workers=self.hparams["num_workers"] > 0,
        )

    def make_sampler(
        self, dataset: SequenceDataset, ranks: int, rank: int, shuffle: bool, bucket: bool = True, **options: Any
    ) -> TokenBatchSampler:
        """Batches of a dataset under the budget, for one of the ranks."""
        longest = int(dataset.lengths.sum(axis=1).max())
        return TokenBatchSampler(
            EpochSampler(dataset, ranks, rank),
            dataset.lengths,
            # A prompt is never left out, so the longest one may stretch the budget.
            max_tokens=max(self.hparams["max_tokens"], longest),
            shuffle=shuffle,
            seed=self.hparams["seed"],
            bucket=bucket,
            varies=shuffle and dataset.varies,
            **options,
        )

    def make_collate(self, dataset: SequenceDataset) -> Callable[..., Any]:
        """The collate function for the examples of a dataset: prompts, or (source, target) for this architecture."""
        joined, pad_id = self.architecture == DECODER_ONLY, self.tokenizer.pad_id
        if isinstance(dataset, PromptDataset):
            return CollatePrompts(pad_id, is_prefix=joined)
        if joined:
            return CollateDecoderOnly(pad_id, loss_on_prefix=self.hparams["loss_on"] == "all")
        return CollateEncoderDecoder(pad_id, self.prompt_format.start_ids)


_SPLIT_NAMES = ("train", "val", "test", "predict")
