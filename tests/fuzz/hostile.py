"""Texts that try to become something else: a command, an option, a second line."""

from __future__ import annotations

import random

# What a text would make if any part of it ran; the folder that scripts start in is watched.
CANARIES = (
    "$(: >canary)",
    "`: >canary`",
    "$(touch canary)",
    ";: >canary;",
    "&: >canary&",
    "||: >canary||",
    "&&: >canary&&",
    "|: >canary",
    ">canary",
    "2>canary",
    "<(: >canary)",
    ">(: >canary)",
    "${x:=$(: >canary)}",
    "${x[$(: >canary)]}",
    "a[$(: >canary)]=1",
    "$((x[$(: >canary)]))",
    "'; : >canary; '",
    '"; : >canary; "',
    "\\'; : >canary; \\'",
    "'\\''; : >canary; '\\''",
    "'$(: >canary)'",
    "$'\\x27; : >canary; #'",
    "); : >canary; (",
    "}; : >canary; {",
    ";; *) : >canary ;;",
    "esac; : >canary",
    "fi; : >canary",
    "${CANARY@P}",
    "$CANARY",
    "{ : >canary; }",
    "%(: >canary)T",
    "eval : >canary",
    "{{ lipsum.__globals__ }}",
    "{% for x in (1,) %}{{ x }}{% endfor %}",
)
WORDS = (
    *CANARIES,
    "#SBATCH --wrap=canary",
    "--wrap=: >canary",
    " --uid=0",
    "END_OF_GUARD",
    "END_OF_TEXT",
    "END_OF_IMAGE",
    "END_OF_FILES",
    "EOF",
    "$HOME",
    "${HOME}",
    "$IFS",
    "$@",
    "$*",
    "$0",
    "$$",
    "$!",
    "~",
    "~root",
    "*",
    "?",
    "[a-z]",
    "{a,b}",
    "{1..9}",
    "!!",
    "^a^b",
    "-",
    "--",
    "-rf",
    "-n",
    "-e",
    "=",
    ",",
    ":",
    "::",
    "%j",
    "%%",
    "%s%n",
    "%(%F)T",
    "\\",
    "\\\\",
    "\\n",
    "\\0",
    "\\x27",
    "\\$",
    "'",
    '"',
    "`",
    "''",
    '""',
    "'\"'",
    "$'",
    '$"',
    "(",
    ")",
    "((",
    "))",
    "[[",
    "]]",
    "{",
    "}",
    "${",
    "$(",
    "$((",
    "<<X",
    "<",
    ">",
    "|",
    "&",
    ";",
    ";;",
    "#",
    " #",
    "!",
    "é",
    "ß",
    "日本",
    "\U0001f642",
    "e\u0301",
    "\u00a0",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "a",
    "A1",
    "0",
    " ",
    "  ",
    ".",
    "..",
    "/",
    "../..",
    "/etc/passwd",
    "null",
    "true",
    '{"a": 1}',
    '"id":"x"',
)
# No script may hold these: whoever renders one must refuse the value.
REFUSED = (
    "\n",
    "\r",
    "\r\n",
    "\n#SBATCH --wrap=canary\n",
    "\n: >canary\n",
    "\t",
    "\0",
    "\x01",
    "\x07",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u2029",
    "\u202e",
    "\u2066",
    "\u200f",
    "\u061c",
    "\ud800",
    "\udcff",
)
_LONG = 4000


def text(rng: random.Random) -> str:
    """One text that a script may hold."""
    if rng.random() < 0.01:
        return rng.choice(WORDS) * rng.randrange(1, _LONG // 4)
    pieces = [rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 3, 5, 8)))]
    if rng.random() < 0.2:
        pieces.insert(rng.randrange(len(pieces) + 1), _any_character(rng))
    return "".join(pieces)


def refused_text(rng: random.Random) -> str:
    """One text that no script may hold."""
    pieces = [rng.choice(WORDS) for _ in range(rng.randrange(4))]
    pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(REFUSED))
    return "".join(pieces)


def file_name(rng: random.Random) -> str:
    """One name of a file or folder, as Linux takes it."""
    name = text(rng).replace("/", "∕")  # noqa: RUF001 - looks alike and is none
    while len(name.encode()) > 200:
        name = name[: len(name) // 2]
    return f"{rng.choice(('', 'x', ' ', '-', '$', '~'))}{name}x"


def _any_character(rng: random.Random) -> str:
    while True:
        code = rng.choice((rng.randrange(0x20, 0x7F), rng.randrange(0xA0, 0x110000)))
        character = chr(code)
        if character not in "\u061c\u200e\u200f" and not (
            0x2028 <= code <= 0x202E or 0x2066 <= code <= 0x2069 or 0xD800 <= code <= 0xDFFF
        ):
            return character
