"""Every kind of file that people write, and what reading one may end in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from hpcvlm.catalog.load import Layer, TextFolder, find_model
from hpcvlm.diagnosis.signatures import read_signatures
from hpcvlm.errors import HpcvlmError
from hpcvlm.site.load import load_site
from hpcvlm.snapshots.lock import parse_lock

ROOT = Path(__file__).resolve().parents[2]
PATH = "mine.yaml"
# Far more than any of these files takes; a regular expression that explodes takes longer.
MOST_SECONDS = 5.0
_LOCK = """
schema: 1
snapshots:
- repo: org/model
  commit: 0123456789abcdef0123456789abcdef01234567
  manifest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'
  licence: apache-2.0
  by: u
  date: '2026-01-01'
  why: 'asked for'
"""


class Kind(NamedTuple):
    """One kind of file.

    Attributes:
        read: reads one; raises `HpcvlmError`.
        samples: such files as they are meant to be.
    """

    read: Callable[[str], object]
    samples: tuple[str, ...]


def _model(text: str) -> object:
    return find_model("mine", [Layer("user", TextFolder({PATH: text}))])


def _site(text: str) -> object:
    return load_site([("site", PATH, text)])


def _lock(text: str) -> object:
    return parse_lock(text, PATH)


def _failures(text: str) -> object:
    return read_signatures([(PATH, text)])


def _texts(folder: str, *names: str) -> tuple[str, ...]:
    files = sorted((ROOT / "configs" / folder).glob("*.yaml"))
    wanted = [file for file in files if not names or file.stem in names]
    return tuple(file.read_text(encoding="utf-8") for file in wanted)


def kinds() -> dict[str, Kind]:
    """By name."""
    return {
        "model": Kind(
            _model,
            tuple(
                re.sub("^name: .*", "name: mine", text, flags=re.MULTILINE)
                for text in _texts("models", "tiny-vlm", "qwen2.5-vl-7b", "gemma-4-31b")
            ),
        ),
        "site": Kind(_site, _texts("sites")),
        "lock": Kind(_lock, (_LOCK,)),
        "failures": Kind(_failures, _texts("failures")),
    }


def problem_of(kind: Kind, text: str) -> str:
    """What is wrong with how a text was taken; empty when it was read or refused with a place."""
    began = time.process_time()
    try:
        kind.read(text)
    except HpcvlmError as error:
        said = "\n".join((error.sentence, *error.details))
        if error.code != "file-invalid":
            return f"{error.code}: {said}"
        if PATH not in said:
            return f"no file is named: {said}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"
    took = time.process_time() - began
    return f"it took {took:.1f} s" if took > MOST_SECONDS else ""
