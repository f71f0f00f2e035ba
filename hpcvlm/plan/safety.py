"""What an engine may fetch, and whose code it may run: nothing, unless somebody has said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.engines.vllm_flags import canonical, flag
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import Issue, LaunchRequest, PlannedSnapshot
from hpcvlm.plan.sources import COMMAND_LINE, Sources
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.manifest import is_hash

# A name that no name service knows (RFC 6761, 6.4). vLLM takes an empty list for "any host".
NO_HOST = "none.invalid"
ANY_HOST = "*"
DOMAINS = "allowed-media-domains"
REMOTE_CODE = "trust-remote-code"
# Shorter beginnings of the flag are ambiguous: --trust-request-mm-kwargs.
_SHORTEST_PREFIX = "trust-rem"
_COMMIT_DIGITS = 40


def media_options(spec: ModelSpec, site: SiteSpec, version: str) -> dict[str, object]:
    """The option that closes the engine's way to other hosts, where the version has it."""
    if not spec.vision or ANY_HOST in site.media_domains or not can_close(version):
        return {}
    return {DOMAINS: list(site.media_domains) or [NO_HOST]}


def media_environment(site: SiteSpec, version: str) -> dict[str, str]:
    """A redirect would lead past the list of hosts (vLLM's docs/usage/security.md)."""
    if ANY_HOST in site.media_domains or not can_close(version):
        return {}
    return {"VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}


def media_notes(spec: ModelSpec, site: SiteSpec, version: str) -> tuple[str, ...]:
    """What a version cannot be kept from."""
    found = flag(DOMAINS)
    if not spec.vision or ANY_HOST in site.media_domains or found is None or can_close(version):
        return ()
    sentence = (
        f"vLLM {version} cannot be told which hosts images may come from ({found.first} can): "
        "whoever has the key can make it fetch any http address"
    )
    return (sentence,)


def can_close(version: str) -> bool:
    """Whether a version of vLLM has --allowed-media-domains."""
    found = flag(DOMAINS)
    try:
        return found is not None and found.in_version(version)
    except HpcvlmError:  # a version that cannot be read is told elsewhere
        return False


def media_root_of(request: LaunchRequest, site: SiteSpec, sources: Sources) -> str | None:
    """The folder of ``file://`` images; None for one of the job's own."""
    return sources.first(
        "media root", (request.media_root, COMMAND_LINE), (site.media_root, "site.media_root")
    )


def media_root_issues(request: LaunchRequest, site: SiteSpec) -> list[Issue]:
    """A folder of images that the site does not allow."""
    root, allowed = request.media_root, site.media_roots
    if root is None or not allowed:
        return []
    if any(
        root == place.rstrip("/") or root.startswith(place.rstrip("/") + "/") for place in allowed
    ):
        return []
    return [
        Issue(
            "media-root-refused",
            "--media-root",
            f"--media-root {root} lies in none of the folders that {site.name} allows",
            f"a folder in {' or '.join(allowed)}",
        )
    ]


def remote_code_issues(
    spec: ModelSpec,
    snapshot: PlannedSnapshot,
    options: Mapping[str, object],
    arguments: Sequence[str],
) -> list[Issue]:
    """Code of a repository runs only at one commit that somebody has reviewed.

    Args:
        spec: its ``reviewed_code`` is the commit that was reviewed.
        snapshot: what is served.
        options: of ``vllm serve``, as they are used.
        arguments: further ones.
    """
    if options.get(REMOTE_CODE) is not True and not any(map(_asks_for_code, arguments)):
        return []
    commit, reviewed = snapshot.commit, spec.reviewed_code
    if not is_hash(commit, _COMMIT_DIGITS):
        return [
            Issue(
                "remote-code",
                "snapshot.revision",
                f"the engine would run code of {snapshot.repo}, and nobody can say of which commit",
                f"hpcvlm snapshots pull {snapshot.repo}, or name the commit as snapshot.revision",
            )
        ]
    if reviewed == commit:
        return []
    said = f"the commit that was reviewed is {reviewed}" if reviewed else "nobody has reviewed it"
    return [
        Issue(
            "remote-code",
            "reviewed_code",
            f"the engine would run code of {snapshot.repo} at commit {commit}; {said}",
            f"read the .py files in {snapshot.path}; then put 'reviewed_code: {commit}' into "
            f"your file of the model, or type --set reviewed_code={commit}",
            arguable=True,
        )
    ]


def _asks_for_code(argument: str) -> bool:
    name, _, value = canonical(argument).partition("=")
    given = argument.startswith("--") and name.startswith(_SHORTEST_PREFIX)
    return given and REMOTE_CODE.startswith(name) and value.lower() != "false"
