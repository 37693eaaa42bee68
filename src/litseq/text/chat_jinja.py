"""Chat templates in Jinja, as `tokenizer_config.json` and `chat_template.jinja` hold them.

The helpers are those that transformers gives a template (https://huggingface.co/docs/transformers/chat_templating_writing).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

OPEN, CLOSE = "\ufdee", "\ufdef"
"""What stands around a `{% generation %}` block until its place is noted: two of Unicode's noncharacters, which are for
the inside of a program and mean nothing in a text."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class _GenerationBlock(Extension):
    """`{% generation %} ... {% endgeneration %}`: the text the assistant generates."""

    tags = {"generation"}  # noqa: RUF012  Extension declares it as a set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{OPEN}{caller()}{CLOSE}"


class JinjaTemplate:
    """A template, compiled; a bundle is untrusted input, so it runs in Jinja's sandbox."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile the source.

        Args:
            source: The Jinja template.
            special_tokens: `bos_token`, `eos_token`, ...: the variables that hold special tokens.

        Raises:
            ValueError: when it is no Jinja template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self._special_tokens = dict(special_tokens)
        self.has_generation_blocks = _GENERATION.search(source) is not None
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"the chat template is no Jinja template: {error.message}, line {error.lineno}") from None

    def render(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
        """The text of a conversation, `OPEN` and `CLOSE` around every generation block.

        Raises:
            ValueError: with what the template says, where it refuses the conversation.
        """
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the conversation: {error.message}") from None
        except Exception as error:  # whatever the expressions of a foreign template come to
            raise ValueError(f"the chat template fails: {type(error).__name__}: {error}") from None


def _raise_exception(message: object) -> NoReturn:
    raise TemplateError(str(message))


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes < and > for HTML, which a prompt is not.
    options: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
