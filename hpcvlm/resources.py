"""Finds the data that is shipped with hpcvlm: templates, configs, containers, the bundled model."""

from __future__ import annotations

from pathlib import Path

from hpcvlm.errors import HpcvlmError

_PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The folder that holds templates/, configs/ and containers/.

    In an installed wheel that is ``hpcvlm/_data``; in a checkout (or an editable install) it is
    the checkout itself.

    Raises:
        HpcvlmError: ``installation-broken`` when neither place has the templates.
    """
    candidates = (_PACKAGE / "_data", _PACKAGE.parent)
    for root in candidates:
        if (root / "templates" / "sbatch").is_dir():
            return root
    tried = ", ".join(str(root) for root in candidates)
    raise HpcvlmError(
        "installation-broken",
        f"hpcvlm's templates are missing; looked in {tried}",
        "install hpcvlm again: pip install --force-reinstall hpcvlm",
    )


def shipped_models() -> Path:
    """The folder of the shipped model files (one YAML per model)."""
    return data_root() / "configs" / "models"


def bundled_hub() -> Path:
    """The hub cache that holds the tiny model shipped with the package."""
    return _PACKAGE / "bundled" / "hub"
