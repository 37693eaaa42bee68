"""A comparison from its YAML file and from what the command line puts in place of it."""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from litseq.compare.building import parser_message
from litseq.compare.config import Arm, Budget, Comparison, Data, Speed
from litseq.errors import UsageError

_PLAIN = {"model", "trainer", "tests", "generation"}
_BY_HAND = {"arms", "data"} | _PLAIN
"""jsonargparse takes anything with a `class_path` for an object to build, and writes its defaults into it."""
_SUCH_AS = {"budget": "{tokens: 5000000}", "speed": "{repeats: 5}"}


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as everybody means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(file: Path | None, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison.

    Args:
        file: The YAML file; None: everything is in `overrides`.
        overrides: `--out=DIR`, `--data.init_args.train=FILE`, `--arms.causal.init_args.num_layers 4`: values in YAML.

    Raises:
        UsageError: in one line, what cannot be read or is not known.
    """
    values: Any = {}
    if file is not None:
        try:
            values = _parse(file.read_text(encoding="utf-8"), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(values, dict):
            raise UsageError(f"{file} holds no comparison, expected arms, data and further settings by name")
    for name, value in _pairs(overrides):
        _put(values, name, _parse(value, f"--{name}"))
    return build(values)


def build(values: dict[str, Any]) -> Comparison:
    """A comparison from plain values; unknown names and wrong types are refused."""
    values = {name: _given(value) if name in _SUCH_AS else value for name, value in _given(values).items()}
    known = {field.name for field in fields(Comparison)}
    if unknown := sorted(set(values) - known):
        raise UsageError(f"a comparison has no setting {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    for name in ("arms", "data"):
        if not isinstance(values.get(name), dict):
            raise UsageError(
                f"{name} is missing, expected {'arms by name' if name == 'arms' else 'class_path and init_args'}"
            )
    for name in ("budget", "speed"):
        if not isinstance(values.get(name, {}), dict):
            raise UsageError(f"{name} is {values[name]!r}, expected settings by name, such as {_SUCH_AS[name]}")
    budget = values.get("budget", {})
    if isinstance(tokens := budget.get("tokens"), float) and tokens.is_integer():
        values = values | {"budget": budget | {"tokens": int(tokens)}}  # 5e6 is a number of tokens too
    plain = {name: values[name] for name in _PLAIN if values.get(name) is not None}
    for name, value in plain.items():
        if not isinstance(value, dict):
            raise UsageError(f"{name} is {value!r}, expected settings by name")
    parser = make_parser()
    try:
        parsed = parser.parse_object({name: value for name, value in values.items() if name not in _BY_HAND})
    except (ArgumentError, TypeError, ValueError) as error:
        raise UsageError(parser_message(error)) from error
    rest = parsed.as_dict()
    return Comparison(
        arms={str(name): _part(Arm, arm, f"arm {name}") for name, arm in values["arms"].items()},
        data=_part(Data, values["data"], "data"),
        budget=Budget(**rest["budget"]),
        speed=Speed(**rest["speed"]),
        **plain,
        **{name: rest[name] for name in known - _BY_HAND - {"budget", "speed"}},
    )


def _given(values: Any) -> Any:
    """Settings without those left empty, which have their defaults."""
    return {name: value for name, value in values.items() if value is not None} if isinstance(values, dict) else values


def make_parser() -> ArgumentParser:
    """The parser of all settings but `arms` and `data`."""
    parser = ArgumentParser(prog="litseq compare", exit_on_error=False)
    parser.add_class_arguments(Comparison, skip=_BY_HAND)
    return parser


def _part(cls: type[Any], values: Any, where: str) -> Any:
    known = [field.name for field in fields(cls)]
    if not isinstance(values, dict) or (unknown := sorted(set(values) - set(known))):
        found = ", ".join(unknown) if isinstance(values, dict) else type(values).__name__
        raise UsageError(f"{where} has {found}, expected {', '.join(known)}")
    if not isinstance(values.get("class_path", ""), str) or not isinstance(values.get("init_args", {}), dict):
        raise UsageError(f"{where}: expected a name under class_path and arguments by name under init_args")
    for name in ("label", "start_from"):
        if not isinstance(values.get(name) or "", str):
            raise UsageError(f"{where}: {name} is {values[name]!r}, expected a text; put quotes around it")
    if cls is Arm and "class_path" not in values:
        raise UsageError(f"{where} has no class_path, such as litseq.models.DecoderOnly")
    return cls(**values)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is no YAML: {' '.join(str(error).split())}") from error


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    found, left = [], list(overrides)
    while left:
        argument = left.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or (not equals and not left):
            raise UsageError(f"{argument} is not understood, expected --name=value; --help lists the settings")
        found.append((name, value if equals else left.pop(0)))
    return found


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UsageError(f"--{name}: {parent} has no settings of its own")
    values[last] = value
