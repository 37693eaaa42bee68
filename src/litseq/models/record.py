"""The entry `litseq` of a checkpoint: which class it is, and what its data looked like."""

import copy
import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import nn

import litseq
from litseq.errors import UsageError
from litseq.models.class_path import class_path_of
from litseq.text import Tokenizer

COMPILED_PREFIX = "_orig_mod."
"""What `torch.compile` puts before the names of a layer's weights."""


class CheckpointRecord:
    """Tokenizer, prompt and chat format, data fingerprint and seed, in plain types, as the data or a checkpoint gave them."""

    def __init__(self) -> None:
        self.tokenizer_json: str | None = None
        self._tokenizer: tuple[str, Tokenizer] | None = None
        self.prompt_format: dict[str, Any] | None = None
        self.chat: dict[str, Any] | None = None
        self.data: dict[str, Any] | None = None
        self.seed = 0
        """What the random numbers of training are drawn from, together with the step."""

    def take_from(self, datamodule: object, vocab_size: int, fitting: bool) -> None:
        """Ask a data module for what it knows; any with the attributes of litseq's will do.

        Args:
            datamodule: The trainer's.
            vocab_size: The model's.
            fitting: The model is trained on this data, so that its fingerprint becomes the model's.

        Raises:
            UsageError: The data has more tokens than the model, or others than the model was trained with.
        """
        data_vocab_size = getattr(datamodule, "vocab_size", None)
        if isinstance(data_vocab_size, int) and data_vocab_size > vocab_size:
            raise UsageError(
                f"the tokenizer of the data has {data_vocab_size} tokens, the model vocab_size {vocab_size}, expected"
                f" at least as many: build the model with vocab_size={data_vocab_size}"
            )
        tokenizer = getattr(datamodule, "tokenizer", None)
        if tokenizer is not None and hasattr(tokenizer, "to_json"):
            self._take_tokenizer(tokenizer.to_json())
        prompt_format = getattr(datamodule, "prompt_format", None)
        if prompt_format is not None:
            self.prompt_format = _plain(prompt_format)
        chat = getattr(datamodule, "chat", None)
        if chat is not None:
            self.chat = _plain(chat)
        fingerprint = getattr(datamodule, "fingerprint", None)
        if fingerprint is not None and (fitting or self.data is None):
            self.data = _plain(fingerprint)

    def to_dict(self, module: nn.Module) -> dict[str, Any]:
        """The entry of a checkpoint of `module`."""
        return {
            "class_path": class_path_of(type(module)),
            "litseq_version": litseq.__version__,
            "architecture": module.architecture,
            "tokenizer": self.tokenizer_json,
            "prompt_format": self.prompt_format,
            "chat": self.chat,
            "data": self.data,
            "seed": self.seed,
        }

    def restore(self, entry: Mapping[str, Any]) -> None:
        """Read the entry of a checkpoint back; what it lacks stays as it is."""
        if entry.get("tokenizer"):
            self._take_tokenizer(entry["tokenizer"])
        self.prompt_format = entry.get("prompt_format") or self.prompt_format
        self.chat = entry.get("chat") or self.chat
        self.data = entry.get("data") or self.data
        self.seed = entry.get("seed") or self.seed

    def _take_tokenizer(self, tokenizer_json: str) -> None:
        if self.tokenizer_json not in (None, tokenizer_json):
            # The ids would mean other words: a loss that looks bad, or text that is none.
            raise UsageError(
                "the tokenizer of the data is not the one the model was trained with: give the data module the"
                " same training files and options, or tokenizer= the same tokenizer.json"
            )
        self.tokenizer_json = tokenizer_json

    def end_tokens(self, default: int) -> list[int]:
        """What ends an output: the end token, and in a chatbot what ends an answer.

        Args:
            default: The end token where no tokenizer is known.
        """
        tokenizer = self.load_tokenizer()
        end = default if tokenizer is None else tokenizer.eos_id
        return [end, *(token for token in (self.chat or {}).get("stop_ids", ()) if token != end)]

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None where none is known."""
        if self.tokenizer_json is None:
            return None
        if self._tokenizer is None or self._tokenizer[0] != self.tokenizer_json:
            self._tokenizer = self.tokenizer_json, Tokenizer.from_json(self.tokenizer_json)
        return self._tokenizer[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> "CheckpointRecord":
        # A tokenizer cannot be copied, and need not be: it never changes.
        other = copy.copy(self)
        memo[id(self)] = other
        return other


def plain_hyper_parameters(values: Any) -> Any:
    """Hyper-parameters with numpy's numbers and arrays, and paths, as what `torch.load(weights_only=True)` accepts.

    What else it refuses stays as it is: reading it back as something else would be worse than not at all.
    """
    if isinstance(values, dict):
        return {name: plain_hyper_parameters(value) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(map(plain_hyper_parameters, values))
    if isinstance(values, np.generic | np.ndarray):
        return values.tolist()
    return os.fspath(values) if isinstance(values, os.PathLike) else values


def step_seed(seed: int, epoch: int, batch: int, rank: int) -> int:
    """A seed for one micro-batch of one rank; neighbours have nothing in common."""
    return int(np.random.SeedSequence([seed, epoch, batch, rank]).generate_state(1, np.uint64)[0])


def rename_state(state: dict[str, Any], names: Iterable[str]) -> None:
    """Rename weights in place so that compiled and plain layers load each other's.

    Args:
        state: A state dict; its order changes, its tensors do not.
        names: What the module that loads it calls its weights.
    """
    live = {name.replace(COMPILED_PREFIX, ""): name for name in names}
    for name in list(state):
        plain = name.replace(COMPILED_PREFIX, "")
        target = live.get(plain, plain)
        if target != name:
            state[target] = state.pop(name)


def _plain(value: Any) -> Any:
    """Dataclasses, mappings and sequences as what `torch.load(weights_only=True)` accepts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
