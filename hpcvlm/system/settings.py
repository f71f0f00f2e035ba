"""Where hpcvlm keeps its own things, and which files it reads: the only reader of HPCVLM_*."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Settings(NamedTuple):
    """The folders and files of one user on one cluster.

    Attributes:
        state: must lie on a file system that login and compute nodes share.
        user_config: the user's own site.yaml and models/.
        site_file: the admin's site file.
    """

    state: Path
    user_config: Path
    site_file: Path

    @property
    def jobs(self) -> Path:
        """One folder per job."""
        return self.state / "jobs"


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Read HPCVLM_STATE, HPCVLM_CONFIG and HPCVLM_SITE, with their defaults.

    Defaults: ``~/.hpcvlm`` (home is what clusters share), ``~/.config/hpcvlm``,
    ``/etc/hpcvlm/site.yaml``.
    """
    env = os.environ if environment is None else environment
    home = Path(env.get("HOME") or Path.home())
    config_home = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    return Settings(
        state=Path(env.get("HPCVLM_STATE") or home / ".hpcvlm").absolute(),
        user_config=Path(env.get("HPCVLM_CONFIG") or config_home / "hpcvlm").absolute(),
        site_file=Path(env.get("HPCVLM_SITE") or "/etc/hpcvlm/site.yaml").absolute(),
    )
