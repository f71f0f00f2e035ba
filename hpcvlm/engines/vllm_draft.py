"""Options of `vllm serve` while they are made fit for one release, and what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hpcvlm.engines.vllm_versions import known_versions, release


class Change(NamedTuple):
    """Something that was translated or dropped without a loss, and why.

    Attributes:
        flag: the option's name as it was given; empty for a note on the version.
        sentence: what was done.
        environment: variables that stand for the option, as (name, value).
        unset: variables that the option now stands for, and that are to be left out.
    """

    flag: str
    sentence: str
    environment: tuple[tuple[str, str], ...] = ()
    unset: tuple[str, ...] = ()


class FlagProblem(NamedTuple):
    """Something that a release cannot do.

    Attributes:
        flag: the option's name; empty where the version itself is the problem.
        sentence: what is wrong.
        remedy: what to write instead.
    """

    flag: str
    sentence: str
    remedy: str


@dataclass(slots=True)
class Draft:
    """The options so far.

    Attributes:
        version: of vLLM, as it was asked for.
        asked: names of all options that were given: a translation never overrides one of them.
        options: those that are done.
    """

    version: str
    asked: frozenset[str] = frozenset()
    options: dict[str, object] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    problems: list[FlagProblem] = field(default_factory=list)

    @property
    def index(self) -> int:
        """The release's place in the table of releases."""
        return release(self.version).index

    @property
    def newer(self) -> bool:
        """Whether the version is newer than all in the tables, so that it may know more."""
        taken = release(self.version)
        return bool(taken.note) and taken.version == known_versions()[-1]

    def before(self, version: str) -> bool:
        """Whether the release is older than `version`, which must be one of the table's."""
        return self.index < release(version).index

    def replace(self, old: str, new: str, value: object, why: str) -> bool:
        """Write option `old` as option `new`; a mapping joins one that is already there."""
        if new in self.asked and not isinstance(value, dict):
            return self.drop(old, f"--{new} is set, and says the same")
        present = self.options.get(new)
        if isinstance(present, dict) and isinstance(value, dict):
            value = {**value, **present} if new in self.asked else {**present, **value}
        self.options[new] = value
        self.changes.append(Change(old, f"--{old} became --{new}: {why}"))
        return True

    def drop(self, name: str, why: str) -> bool:
        """Leave an option out because the release behaves that way without it."""
        self.changes.append(Change(name, f"--{name} left out: {why}"))
        return True

    def by_environment(self, name: str, variable: str, value: str) -> bool:
        """Say an option by an environment variable instead."""
        self.changes.append(
            Change(
                name, f"--{name} became {variable}={value} in the environment", ((variable, value),)
            )
        )
        return True

    def refuse(self, name: str, sentence: str, remedy: str) -> bool:
        """Note that the release cannot do what an option asks for."""
        self.problems.append(FlagProblem(name, sentence, remedy))
        return True


Rule = Callable[[Draft, str, object], bool]
"""Takes one option; True where it has dealt with it."""
