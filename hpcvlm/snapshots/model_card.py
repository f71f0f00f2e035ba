"""Reads what a model card (README.md) says in its front matter: the licence, above all.

The front matter is YAML between two lines of three dashes (huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

from pathlib import Path

from hpcvlm.snapshots.listing.completeness import read_quietly

_FENCE = "---"
_LARGEST_CARD = 20_000_000
_OTHER = "other"


def licence_of(snapshot: Path) -> str:
    """The licence that the model card of a snapshot names; empty where it names none.

    ``license: other`` comes with ``license_name`` (huggingface.co/docs/hub/repositories-licenses),
    which is then the answer.
    """
    try:
        text = read_quietly(snapshot / "README.md", _LARGEST_CARD).decode("utf-8", "replace")
    except OSError:
        return ""
    return licence_in(text)


def licence_in(card: str) -> str:
    """The licence that a model card's text names; empty where it names none."""
    lines = card.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return ""
    end = next((n for n, line in enumerate(lines[1:], 1) if line.strip() == _FENCE), None)
    if end is None:
        return ""
    import yaml

    try:
        data = yaml.safe_load("\n".join(lines[1:end]))
    except (yaml.YAMLError, ValueError, RecursionError):
        return ""
    if not isinstance(data, dict):
        return ""
    licence, name = data.get("license"), data.get("license_name")
    if isinstance(licence, list):
        licence = ", ".join(str(one) for one in licence)
    chosen = name if licence in (None, "", _OTHER) and name else licence
    return " ".join(str(chosen or "").split())
