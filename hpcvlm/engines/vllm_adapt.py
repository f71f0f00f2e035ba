"""Options of `vllm serve` made fit for one release: translated, dropped, or refused with a reason.

`adapt` takes the options of a model file, which may have been written for another release, and
`adapt_arguments` reads what a user typed after ``--``. Which flag stands for which is in
`vllm_successors`; here is what happens to an option on its way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from hpcvlm.engines import vllm_successors
from hpcvlm.engines.vllm_draft import Change, Draft, FlagProblem
from hpcvlm.engines.vllm_flags import (
    BOOLEAN,
    SWITCH,
    Flag,
    canonical,
    flag,
    flags_of,
    nearest,
    refusal,
)
from hpcvlm.engines.vllm_versions import release, table, within
from hpcvlm.errors import HpcvlmError

_KEYED = {"json", "text-or-json"}
_SECRET = {"api-key", "hf-token"}
_NUMBER = re.compile(r"-\d+(\.\d+)?")


class Adapted(NamedTuple):
    """Options as one release takes them.

    Attributes:
        options: by name without leading dashes; a dotted option has been put into the mapping
            that it belongs to (0.9.1 takes dotted values as text: ``{"image": "2"}``).
        changes: what was translated or dropped, and why.
        problems: what the release cannot do; then the options are not to be used.
    """

    options: dict[str, object]
    changes: tuple[Change, ...]
    problems: tuple[FlagProblem, ...]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that stand for options of other releases."""
        return {name: value for change in self.changes for name, value in change.environment}


def adapt(
    options: Mapping[str, object], version: str, environment: Mapping[str, str] | None = None
) -> Adapted:
    """The options, by the names and with the values that `version` knows.

    Args:
        options: by name without leading dashes, possibly dotted (``limit-mm-per-prompt.image``);
            values are bool, int, float, str, list or dict.
        version: of vLLM; one that the tables do not have is taken as the release before it.
        environment: the engine's environment; a variable that has become a flag is translated.
    """
    try:
        taken = release(version)
    except HpcvlmError as error:
        return Adapted(dict(options), (), (FlagProblem("", str(error), error.remedy),))
    draft = Draft(version)
    if taken.note:
        draft.changes.append(Change("", taken.note))
    folded = _folded(options)
    draft.asked = frozenset(folded)
    for name, value in folded.items():
        _option(draft, name, value)
    vllm_successors.from_environment(draft, environment or {})
    finished = {name: _as_given(name, value, version) for name, value in draft.options.items()}
    return Adapted(finished, tuple(draft.changes), tuple(draft.problems))


def _folded(options: Mapping[str, object]) -> dict[str, object]:
    """Dotted options put into the mapping of the flag that they belong to."""
    found: dict[str, object] = {}
    for name, value in options.items():
        head, *keys = canonical(name).split(".")
        if keys and not name.endswith("+"):
            for key in reversed(keys):
                value = {key: value}  # noqa: PLW2901  # from the innermost outwards
        else:
            head = canonical(name)
        found[head] = _merged(found.get(head), value)
    return found


def _merged(old: object, new: object) -> object:
    if isinstance(old, str) and isinstance(new, Mapping):
        try:
            old = json.loads(old)
        except json.JSONDecodeError:
            return new
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _option(draft: Draft, name: str, value: object) -> None:
    """Put one option into the draft: as it is, translated, or as a problem."""
    head = name.partition(".")[0]
    found = flag(head)
    if found is None:
        _unknown(draft, head, value)
        return
    if found.name != head and f"--{head}" not in found.aliases(draft.version):
        draft.changes.append(Change(head, f"--{head} is another name of --{found.name}"))
    if vllm_successors.translate(draft, found.name, value):
        return
    if not found.in_version(draft.version):
        _absent(draft, found)
        return
    _checked(draft, found, name if name.endswith("+") else found.name, value)


def _unknown(draft: Draft, name: str, value: object) -> None:
    """A name that no release has: the inverse of a pair, or a mistake."""
    pair = _inverse(name)
    if pair and isinstance(value, bool):
        draft.changes.append(Change(name, f"--{name} is the other side of --{pair.name}"))
        _option(draft, pair.name, not value)
        return
    if draft.newer:
        newest = release(draft.version).version
        draft.changes.append(Change(name, f"--{name} passed on: no vLLM up to {newest} has it"))
        draft.options[name] = value
        return
    draft.problems.append(_no_such_flag(name, draft.version))


def _no_such_flag(name: str, version: str) -> FlagProblem:
    near = nearest(name, version)
    hint = f"did you mean --{near}?" if near else "see `vllm serve --help=all` for its flags"
    return FlagProblem(name, f"vLLM has no --{name}", hint)


def _inverse(name: str) -> Flag | None:
    """The boolean flag that `--disable-x` turns off, or `--enable-x` turns off."""
    for prefix, other in (("disable-", "enable-"), ("enable-", "disable-")):
        if name.startswith(prefix):
            found = flag(other + name.removeprefix(prefix))
            if found and found.entry["kind"][-1][1] == BOOLEAN:
                return found
    return None


def _absent(draft: Draft, found: Flag) -> None:
    """A flag that other releases have, but not this one, and that nothing stands for."""
    draft.problems.append(absence(found, draft.version))


def absence(found: Flag, version: str) -> FlagProblem:
    """Why a release lacks a flag that another has, and which release to take instead."""
    taken = release(version)
    if taken.index < found.entry["in"][0][0]:
        sentence = f"vLLM {version} has no --{found.name}; {found.first} is the first that has it"
        return FlagProblem(
            found.name, sentence, f"leave it out, or use vLLM {found.first} or newer"
        )
    sentence = f"vLLM {version} has no --{found.name}; {found.last} was the last that had it"
    hint = vllm_successors.HINTS.get(found.name, "leave it out")
    return FlagProblem(found.name, sentence, f"{hint}, or use vLLM {found.last} or older")


def _checked(draft: Draft, found: Flag, name: str, value: object) -> None:
    """An option of this release: kept if its value is one that the release takes."""
    kind = found.kind(draft.version)
    if kind not in {"list", "append"} and isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0] if kind not in _KEYED else value
    if kind == "append" and isinstance(value, (list, tuple)):
        if len(value) != 1:
            sentence = f"--{found.name} takes one value each time it is given, not a list"
            draft.problems.append(
                FlagProblem(found.name, sentence, f"give `--{found.name} VALUE` after -- instead")
            )
            return
        value = value[0]
    if kind == SWITCH and value is False:
        draft.changes.append(
            Change(found.name, f"--{found.name} left out: it is off unless it is given")
        )
        return
    wrong = refusal(found, value, draft.version)
    if wrong and not (draft.newer and wrong.startswith("takes one of")):
        given = "another value" if found.name in _SECRET else repr(value)
        sentence = f"--{found.name} of vLLM {draft.version} {wrong}; it was given {given}"
        draft.problems.append(FlagProblem(found.name, sentence, f"change {found.name}"))
        return
    draft.options[name] = value


def _as_given(name: str, value: object, version: str) -> object:
    """A list for a flag that takes JSON becomes JSON text; other values stay."""
    found = flag(name.partition(".")[0])
    if found and found.kind(version) in _KEYED and isinstance(value, (list, tuple)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return value


def adapt_arguments(arguments: Sequence[str], version: str) -> tuple[FlagProblem, ...]:
    """Every flag among raw arguments that `version` does not have. Nothing is translated.

    Names are read as vLLM's parser reads them: ``--x``, ``--x=v``, ``--no-x``, ``--x.y``, with
    dashes or underscores, unambiguous beginnings, ``-tp``, ``-O3``.
    """
    try:
        newer = Draft(version).newer
    except HpcvlmError as error:
        return (FlagProblem("", str(error), error.remedy),)
    found = [
        problem
        for argument in arguments
        if argument.startswith("-") and argument != "--" and not _NUMBER.fullmatch(argument)
        for problem in _argument(argument, version)
    ]
    return tuple(problem for problem in found if not newer or flag(problem.flag) is not None)


def meant(argument: str, version: str) -> str | None:
    """The flag of `version` that a raw argument names, also by an alias or a beginning.

    None for a value, for what the release has not, and for the beginning of several flags.
    """
    if not argument.startswith("--"):
        return None
    bare = canonical(re.split(r"[=.]", argument, maxsplit=1)[0])
    try:
        names = _parsed_names(version)
    except HpcvlmError:  # a version that cannot be read is told elsewhere
        return bare
    if bare in names:
        return names[bare]
    owners = {owner for known, owner in names.items() if known.startswith(bare)}
    return owners.pop() if len(owners) == 1 else None


def _argument(argument: str, version: str) -> Iterator[FlagProblem]:
    name = re.split(r"[=.]", argument, maxsplit=1)[0]
    if not argument.startswith("--"):
        if not _is_short(name, version):
            sentence = f"vLLM {version} has no {name}"
            yield FlagProblem(name, sentence, "write the flag's long name, with two dashes")
        return
    if meant(argument, version) is not None:
        return
    bare = canonical(name)
    positive = bare.removeprefix("no-")
    found = flag(positive)
    if found is None:
        yield _no_such_flag(bare, version)
    elif not found.in_version(version):
        yield absence(found, version)
    else:
        sentence = f"vLLM {version} has --{positive}, but no --{bare}"
        yield FlagProblem(bare, sentence, f"leave --{bare} out")


@cache
def _parsed_names(version: str) -> Mapping[str, str]:
    """Every long name that a release's parser takes, without dashes, and the flag it belongs to."""
    inverse = within(table("versions")["inverse_flags"], release(version).index)
    names = {"help": "help"}
    for name in flags_of(version):
        found = flag(name)
        if found is None:
            continue
        long = [name, *(alias[2:] for alias in found.aliases(version) if alias.startswith("--"))]
        names |= dict.fromkeys(long, name)
        if found.kind(version) == BOOLEAN:
            names |= {f"no-{one}": name for one in long}
            if inverse:
                names |= {other: name for one in long for other in _other_side(one)}
    return names


def _other_side(name: str) -> Iterator[str]:
    if name.startswith("enable-"):
        yield "disable-" + name.removeprefix("enable-")
    elif name.startswith("disable-"):
        yield "enable-" + name.removeprefix("disable-")


def _is_short(name: str, version: str) -> bool:
    """Whether a release has a short flag; a flag of one letter may be followed by its value."""
    if name == "-h":
        return True
    short = {
        alias
        for one in flags_of(version)
        if (found := flag(one))
        for alias in found.aliases(version)
        if not alias.startswith("--")
    }
    return name in short or name[:2] in short
