"""hpcvlm: vision-language endpoints on Slurm clusters that have proved they can see."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcvlm.ops.api import (
        Endpoint,
        EndpointEvent,
        EndpointStatus,
        EndpointWarning,
        HpcvlmError,
        attach,
        launch,
    )

__all__ = [
    "Endpoint",
    "EndpointEvent",
    "EndpointStatus",
    "EndpointWarning",
    "HpcvlmError",
    "__version__",
    "attach",
    "launch",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:  # a type checker sees the names above, and no others

    def __getattr__(name: str) -> object:
        """Load the API when something of it is used: the command line does without."""
        if name in __all__:
            return getattr(importlib.import_module("hpcvlm.ops.api"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted(__all__)
