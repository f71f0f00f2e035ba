"""Where the values of a plan came from, for `hpcvlm plan` to tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

COMMAND_LINE = "command line"
DEFAULT = "default"

T = TypeVar("T")


@dataclass(slots=True)
class Sources:
    """Takes the first value that was said, and remembers who said it.

    Attributes:
        known: the label of the file (or ``environment``) by dotted key of the site
            (``site.partition``) and the model (``model.options.seed``).
        taken: what was decided with this: source by the plan's own word for the value.
    """

    known: Mapping[str, str]
    taken: dict[str, str] = field(default_factory=dict)

    def first(self, name: str, *candidates: tuple[T | None, str]) -> T | None:
        """The first value that is not None or empty.

        Args:
            name: the plan's word for the value.
            candidates: (value, where it is from: a dotted key, or words), the strongest first.
        """
        for value, place in candidates:
            if value:
                self.taken[name] = self.of(place)
                return value
        return None

    def say(self, name: str, place: str) -> None:
        """Note where a value is from: a dotted key, or words."""
        self.taken[name] = self.of(place)

    def of(self, place: str) -> str:
        """``site.partition`` as ``site file: partition``; words are left as they are."""
        room, dot, key = place.partition(".")
        if not dot or room not in {"site", "model"}:
            return place
        label = self._label(place)
        return label if label == DEFAULT else f"{label}: {key}"

    def _label(self, place: str) -> str:
        """The label of a key, of what stands below it, or of the nearest one above it."""
        room = place.partition(".")[0]
        label = self._below(place)
        while place and not label:
            label = self.known.get(place)
            place = place.rpartition(".")[0]
        return _WORDS.get((room, label), label) if label else DEFAULT

    def _below(self, place: str) -> str | None:
        """The label of the strongest file that says something below a key, as of a mapping."""
        labels = {label for key, label in self.known.items() if key.startswith(f"{place}.")}
        return next((label for label in _STRONGEST_FIRST if label in labels), None)


_STRONGEST_FIRST = ("command line", "environment", "user", "site", "shipped")
_WORDS = {
    ("site", "site"): "site file",
    ("site", "user"): "your site file",
    ("model", "shipped"): "model file",
    ("model", "site"): "site's model file",
    ("model", "user"): "your model file",
}
