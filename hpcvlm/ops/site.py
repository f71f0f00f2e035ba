"""`hpcvlm site`: asks the cluster what it is, writes a site file, shows where values are from."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_texts
from hpcvlm.ops.site_machine import look_around
from hpcvlm.site.cluster import parse_sinfo
from hpcvlm.site.discover import site_facts
from hpcvlm.site.facts import Answers, SiteFacts, Unanswered
from hpcvlm.site.load import ResolvedSite, resolve_site
from hpcvlm.site.schema import SiteSpec
from hpcvlm.site.text import site_text
from hpcvlm.slurm import accounts, commands, records
from hpcvlm.system.files import write_atomically
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.check import suggest

_ASKING_S = 30.0
_READABLE_FILE = 0o644
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draft:
    """A new site file: what was found, and the text."""

    facts: SiteFacts
    text: str


@dataclass(frozen=True, slots=True)
class ShownValue:
    """One value of the site.

    Attributes:
        key: dotted.
        value: as a file would hold it.
        source: ``default``, ``site``, ``user``, ``environment`` or ``command line``.
        place: ``file:line`` or the variable; empty for defaults.
    """

    key: str
    value: object
    source: str
    place: str


def resolve(ctx: Context, settings: Sequence[str] = ()) -> ResolvedSite:
    """The site as files, environment and command line say it together.

    Raises:
        HpcvlmError: ``file-invalid``, ``file-unreadable`` or ``setting-invalid``.
    """
    return resolve_site(site_texts(ctx), settings, ctx.environment)


def draft_site(ctx: Context) -> Draft:
    """Ask Slurm and look around on this machine. Changes nothing.

    sinfo must answer; whatever else does not is named in the text.

    Raises:
        HpcvlmError: ``slurm-unavailable`` or ``slurm-output``.
    """
    facts = site_facts(_ask(ctx))
    text = site_text(facts)
    # What hpcvlm writes it must be able to read; a name that it cannot is a mistake of ours.
    validate(SiteSpec, text, "the new site file")
    return Draft(facts, text)


def default_file(ctx: Context) -> Path:
    """Where `hpcvlm site init` writes: the user's own site file."""
    return ctx.settings.user_config / "site.yaml"


def check_free(path: Path, *, force: bool) -> None:
    """Refuse to replace a file, unless told to.

    Raises:
        HpcvlmError: ``option-invalid``.
    """
    if path.is_dir():
        raise HpcvlmError(
            "option-invalid", f"{path} is a folder", f"--output {path}/site.yaml names a file in it"
        )
    if not force and (path.exists() or path.is_symlink()):
        raise HpcvlmError(
            "option-invalid",
            f"{path} is there already, and is left as it is",
            "--force replaces it, --output FILE writes another one, --stdout only shows it",
        )


def write_site(path: Path, text: str, *, force: bool) -> None:
    """Write a new site file, whole or not at all.

    Raises:
        HpcvlmError: ``option-invalid``: it is there already, or cannot be written.
    """
    check_free(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text, mode=_READABLE_FILE)
    except OSError as error:
        raise HpcvlmError(
            "option-invalid",
            f"cannot write to {path}: {error.strerror}",
            "--output FILE names a file in a folder that you can write to",
        ) from None


def shown_values(resolved: ResolvedSite, wanted: Sequence[str] = ()) -> list[ShownValue]:
    """Every value with its origin, or those of some keys.

    Args:
        resolved: the site.
        wanted: dotted keys; one that has others below it stands for all of these.

    Raises:
        HpcvlmError: ``setting-invalid`` for a key that no site has.
    """
    data = resolved.spec.model_dump()
    places = resolved.places()
    every = [
        ShownValue(key, _value(data, key), source, places.get(key, ""))
        for key, source in resolved.sources.items()
    ]
    if not wanted:
        return every
    found: dict[str, ShownValue] = {}
    for word in wanted:
        name = word.replace("-", "_") if word not in resolved.sources else word
        some = [one for one in every if one.key == name or one.key.startswith(f"{name}.")]
        if not some:
            raise _no_key(word, resolved, data)
        found |= {one.key: one for one in some}
    return list(found.values())


def _no_key(word: str, resolved: ResolvedSite, data: dict[str, object]) -> HpcvlmError:
    first = word.partition(".")[0]
    names = [*data, *resolved.sources]
    hint = suggest(word, names) or suggest(first, list(data))
    wrong = hint or f"; the keys are {', '.join(data)}"
    remedy = "hpcvlm site show lists every key with its value"
    return HpcvlmError("setting-invalid", f"a site has no key {word!r}{wrong}", remedy)


def _value(data: object, key: str) -> object:
    """The value of a dotted key; the last part may hold dots itself."""
    if not isinstance(data, dict):
        return data
    if key in data:
        return data[key]
    first, _, rest = key.partition(".")
    return _value(data.get(first), rest) if first in data else None


def _ask(ctx: Context) -> Answers:
    """Everything that can be asked, each on its own: what fails is noted, and the rest goes on."""
    missing: list[Unanswered] = []
    user = _user(ctx)

    def ask(argv: commands.Argv, parse: Callable[[int, str, str], T]) -> T | None:
        try:
            return _answer(ctx, argv, parse)
        except HpcvlmError as error:
            missing.append(Unanswered(" ".join(argv[:1] + _words(argv)), error.sentence))
            return None

    cluster = _answer(ctx, commands.sinfo(), parse_sinfo)
    config = ask(commands.scontrol_config(), records.parse_scontrol_config)
    partitions = ask(commands.scontrol_partitions(), records.parse_scontrol_partitions)
    nodes = ask(commands.scontrol_nodes(), records.parse_scontrol_nodes)
    rows, default, qos = None, None, None
    if config is None or config.accounting:
        rows = ask(commands.sacctmgr_associations(user), accounts.parse_associations)
    if rows:
        default = ask(commands.sacctmgr_default_account(user), accounts.parse_default_account)
        qos = ask(commands.sacctmgr_qos(), accounts.parse_qos)
    return Answers(
        cluster=cluster,
        config=config,
        partitions=partitions,
        nodes=nodes,
        associations=rows,
        default_account=default,
        qos=qos,
        user=user,
        machine=look_around(ctx),
        unanswered=tuple(missing),
    )


def _answer(ctx: Context, argv: commands.Argv, parse: Callable[[int, str, str], T]) -> T:
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(argv, env=environment, timeout_s=_ASKING_S)
    return parse(done.code, done.stdout, done.stderr)


def _words(argv: commands.Argv) -> tuple[str, ...]:
    """The words of a command without its options and what it is asked about."""
    return tuple(word for word in argv[1:] if not word.startswith("-") and "=" not in word)[:2]


def _user(ctx: Context) -> str:
    """The name that Slurm knows the user by; $USER may be another's after su."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return ctx.environment.get("USER", "")
