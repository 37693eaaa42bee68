"""Modules and data modules from their class path and arguments, checked as LightningCLI checks them."""

import re
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentError, ArgumentParser

from litseq.data import SequenceDataModule
from litseq.errors import CheckpointError, UsageError
from litseq.models import SequenceModule
from litseq.models.class_path import resolve_class

T = TypeVar("T")


def build_module(class_path: str, init_args: dict[str, Any], where: str = "model") -> SequenceModule:
    """A module, with weights drawn from torch's random numbers."""
    return _build(SequenceModule, class_path, init_args, where)  # type: ignore[type-abstract]  # a bound, never made itself


def build_data(class_path: str, init_args: dict[str, Any], where: str = "data") -> SequenceDataModule:
    """A data module; nothing is read yet."""
    return _build(SequenceDataModule, class_path, init_args, where)  # type: ignore[type-abstract]  # likewise


def weightless(class_path: str, init_args: dict[str, Any], where: str = "model") -> SequenceModule:
    """A module without memory for its weights, to count them.

    Raises:
        UsageError: The class does not exist, or does not take these arguments.
    """
    plain = {name: value for name, value in init_args.items() if name not in ("optimizer", "scheduler")}
    try:
        with torch.device("meta"):
            module = resolve_class(class_path)(**plain)
    except (TypeError, ValueError, CheckpointError) as error:
        raise UsageError(f"{where}: {' '.join(str(error).split())}") from error
    if not isinstance(module, SequenceModule):
        raise UsageError(f"{where}: {class_path} is no subclass of litseq.models.SequenceModule")
    return module


def parser_message(error: Exception) -> str:
    """What jsonargparse found wrong, in one line and without its list of types that a value could have been."""
    head, _, value = str(error).partition("Given value type:")
    head = re.sub(r"\n *- Expected a <class 'NoneType'>", "", head)
    message = " ".join(head.rpartition("Errors:")[2].strip().removeprefix("- ").split())
    setting = re.match(r'Parser key "(.+?)"', head)
    if setting is None or setting[0] in message or "class_path" in message:
        return message
    value = " ".join(value.partition("Given value:")[2].split())
    return f"{setting[1]}: {message}{f'. Got value: {value}' if value else ''}"


def _build(base: type[T], class_path: str, init_args: dict[str, Any], where: str) -> T:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "it")
    try:
        config = parser.parse_object({"it": {"class_path": class_path, "init_args": init_args}})
        built: T = parser.instantiate(config).it
    except (ArgumentError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: {parser_message(error)}") from error
    return built
