"""Words of others as YAML: comments that stay comments, texts that read back as they were."""

from __future__ import annotations

import re
import textwrap

from hpcvlm.yamlfile.text import parse_value

_WIDTH = 99
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\"}


def clean(text: str) -> str:
    """Words in one line, with nothing in them that a terminal or YAML would act on."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def comment(text: str, indent: str = "") -> list[str]:
    """Comment lines, as many as the text needs."""
    return textwrap.wrap(
        clean(text),
        _WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def scalar(text: str) -> str:
    """A text as YAML: plain where it reads back as the same text, else in double quotes."""
    if _PLAIN.fullmatch(text) and parse_value(text) == text:
        return text
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(char: str) -> str:
    """One character inside double quotes (YAML 1.2, 5.7); JSON's surrogate pairs are no YAML."""
    if char.isprintable():
        return _ESCAPES.get(char, char)
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004
