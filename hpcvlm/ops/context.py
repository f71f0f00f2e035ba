"""What every use case needs from the outside, put together once by the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from hpcvlm.system.clock import Clock, SystemClock
from hpcvlm.system.process import Runner, run
from hpcvlm.system.settings import Settings, load_settings


@dataclass(frozen=True)
class Context:
    """The outside world: folders, environment, programs, time."""

    settings: Settings = field(default_factory=load_settings)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    runner: Runner = run
    clock: Clock = field(default_factory=SystemClock)
