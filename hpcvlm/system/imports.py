"""Puts off the loading of a module that a library imports for something that we never ask of it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType


class _Later(ModuleType):
    """Stands in for a module until something of it is used."""

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_at_first_use(name: str) -> None:
    """Have a module loaded when something of it is used, not when it is imported.

    importlib.util.LazyLoader does not help here: a second import of the module counts as use.
    """
    if name in sys.modules:
        return
    sys.modules[name] = _Later(name)
    package, _, last = name.rpartition(".")
    if package:
        setattr(importlib.import_module(package), last, sys.modules[name])
