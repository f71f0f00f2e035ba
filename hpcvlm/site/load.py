"""The site: from layers of site files and what the user typed to one checked SiteSpec.

The layers, each over those before it: defaults, the site's file, the user's file, the environment,
the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_origin

from hpcvlm.errors import HpcvlmError
from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile.check import suggest
from hpcvlm.yamlfile.layers import Merged, Part, check, merge, read_part, sources
from hpcvlm.yamlfile.schema import keys_of, rules_of
from hpcvlm.yamlfile.settings import read_settings
from hpcvlm.yamlfile.text import parse_value

ENVIRONMENT = "environment"
PREFIX = "HPCVLM_SITE_"


class ResolvedSite(NamedTuple):
    """A site with the origin of each of its values.

    Attributes:
        sources: by dotted key a file's label, ``environment``, ``command line`` or ``default``.
        merged: the parts that it is made of.
    """

    spec: SiteSpec
    sources: dict[str, str]
    merged: Merged

    def places(self) -> dict[str, str]:
        """By dotted key where it was written: ``file:line``, a variable, or ``--set KEY=VALUE``.

        Defaults are not among them. Lines are looked up, which takes longer than reading the site.
        """
        by_name = {_dotted(key): part.where(key) for key, part in self.merged.origins.items()}
        return {name: by_name[name] for name in self.sources if name in by_name}


def load_site(
    texts: Sequence[tuple[str, str, str]],
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> tuple[SiteSpec, dict[str, str]]:
    """The site, and where each value came from; as `resolve_site`, without the places."""
    resolved = resolve_site(texts, settings, environment)
    return resolved.spec, resolved.sources


def resolve_site(
    texts: Sequence[tuple[str, str, str]],
    settings: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> ResolvedSite:
    """The site, and where each value came from.

    Args:
        texts: (label, path, text) of each site file, lowest first; none at all is a site where
            everything is Slurm's own default.
        settings: ``key=value`` texts from the command line.
        environment: as `environment_parts` takes it.

    Raises:
        HpcvlmError: ``file-invalid`` or ``setting-invalid``.
    """
    parts = [read_part(label, path, text) for label, path, text in texts]
    parts += environment_parts(environment or {})
    merged = merge([*parts, *read_settings(SiteSpec, settings)])
    spec = check(SiteSpec, merged)
    return ResolvedSite(spec, sources(spec, merged), merged)


def environment_parts(environment: Mapping[str, str]) -> list[Part]:
    """Each ``HPCVLM_SITE_KEY=value`` as a part of its own, so that a mistake names its variable.

    Every key that holds one value has a variable; lists and mappings stand in files. A variable
    that is empty says nothing; ``null`` takes away what a file says.

    Raises:
        HpcvlmError: ``setting-invalid`` for a variable that is no such key.
    """
    known = scalar_variables()
    parts = []
    for name in sorted(environment):
        text = environment[name].strip()
        if not name.startswith(PREFIX) or not text:
            continue
        if name not in known:
            raise _unknown(name, known)
        key, hint = known[name]
        parts.append(Part(ENVIRONMENT, name, {key: _read(hint, text)}))
    return parts


def scalar_variables() -> dict[str, tuple[str, Any]]:
    """The variables by name: the key each one sets, and that key's type."""
    return {
        f"{PREFIX}{key.name.upper()}": (key.name, rules_of(key.type)[0])
        for key in keys_of(SiteSpec).values()
        if key.attribute != "schema_version" and _is_scalar(rules_of(key.type)[0])
    }


def _is_scalar(plain: Any) -> bool:  # noqa: ANN401 - any type of a schema
    return plain in {str, int, float, bool} or get_origin(plain) is Literal


def _read(plain: Any, text: str) -> object:  # noqa: ANN401
    """The value; where the schema wants text, ``0.10`` and ``yes`` are text too."""
    value = parse_value(text)
    wants_text = plain is str or get_origin(plain) is Literal
    return text if wants_text and value is not None and not isinstance(value, str) else value


def _unknown(name: str, known: Mapping[str, object]) -> HpcvlmError:
    word = name.removeprefix(PREFIX).lower()
    if word in keys_of(SiteSpec):
        return HpcvlmError(
            "setting-invalid",
            f"the environment variable {name} cannot be used: {word} is a list or has keys",
            f"unset {name}, and write '{word}:' into a site file",
        )
    short = {variable.removeprefix(PREFIX): variable for variable in known}
    hint = suggest(name.removeprefix(PREFIX), short)
    wrong = hint or f"; the variables are {', '.join(known)}"
    return HpcvlmError(
        "setting-invalid",
        f"the environment variable {name} is no key of a site{wrong}",
        f"unset {name}",
    )


def _dotted(key: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in key)
