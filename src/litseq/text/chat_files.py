"""Chat templates where Hugging Face models keep them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litseq.errors import DataError
from litseq.text.chatml import CHATML

CONFIG_FILE, JINJA_FILE = "tokenizer_config.json", "chat_template.jinja"


def load_chat_template(path: str | os.PathLike[str]) -> tuple[str, dict[str, str] | None]:
    """The source of a chat template, and the special tokens it may name.

    Args:
        path: `chatml`; a `tokenizer_config.json` with a `chat_template`; any other file, whose text is the template; or
            a directory with one of these. Beside a template's own file, a `tokenizer_config.json` gives the tokens.

    Raises:
        DataError: there is none.
    """
    if path == "chatml":
        return CHATML, None
    place = Path(path)
    if place.is_dir():
        place = next(
            (file for name in (JINJA_FILE, CONFIG_FILE) if (file := place / name).is_file()), place / JINJA_FILE
        )
    if place.suffix != ".json":
        beside = place.with_name(CONFIG_FILE)
        return _read(place), _special_tokens(_config(beside)) if beside.is_file() else None
    config = _config(place)
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, Mapping)}
        source = named.get("default")
    if not isinstance(source, str):
        raise DataError(f"{place}: has no text as chat_template, expected a Jinja template there")
    return source, _special_tokens(config)


def has_chat_template(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory of a tokenizer comes with a chat template."""
    place = Path(directory)
    if not place.is_dir():
        return False
    return (place / JINJA_FILE).is_file() or (
        (place / CONFIG_FILE).is_file() and bool(_config(place / CONFIG_FILE).get("chat_template"))
    )


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(f"{file}: cannot read the chat template ({reason})") from None


def _config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(_read(file))
    except ValueError as error:
        raise DataError(f"{file}: not a tokenizer_config.json ({error})") from None
    if not isinstance(config, Mapping):
        raise DataError(f"{file}: not a tokenizer_config.json (no object)")
    return config


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str] | None:
    """`bos_token` and the like, each a text or an object with `content`; None where the file names none."""
    found: dict[str, str] = {}
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        token = config.get(f"{role}_token")
        content = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(content, str):
            found[f"{role}_token"] = content
    return found or None
