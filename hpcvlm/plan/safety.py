"""What an engine may fetch, and whose code it may run: nothing, unless somebody has said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.engines.vllm_adapt import meant
from hpcvlm.engines.vllm_flags import canonical, flag
from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import Issue, LaunchPlan, LaunchRequest, PlannedSnapshot
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
# What opens a way in that the guard does not stand in, or hides what else is asked for.
_OPENS = {
    "grpc": "starts a server that asks for no key, beside the one that does",
    "grpc-port": "starts a server that asks for no key, beside the one that does",
    "middleware": "may answer requests before the key is asked for",
    "config": "reads further options from a file, which no plan can check",
}
# What the job, or another option of hpcvlm, says, and what that is.
_LOCAL_MEDIA = "allowed-local-media-path"
_SAID_ELSEWHERE = {
    _LOCAL_MEDIA: "--media-root FOLDER names the folder of file:// images",
    "host": "--listen says who may connect",
    "port": "the job takes a free port; hpcvlm connect NAME --port gives a fixed one",
    "uds": "--listen socket has the engine listen on a socket that you alone can reach",
}
_RUST_FRONTEND = "VLLM_USE_RUST_FRONTEND"
_KEY_FILE = "HPCVLM_KEY_FILE"


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


def safety_issues(
    spec: ModelSpec, plan: LaunchPlan, options: Mapping[str, object], arguments: Sequence[str]
) -> list[Issue]:
    """What neither a model's file nor the command line may ask of an engine.

    Args:
        spec: the model.
        plan: as it would be.
        options: of ``vllm serve``, as they are used.
        arguments: further ones.
    """
    version, environment = plan.engine.version, dict(plan.environment)
    return [
        *remote_code_issues(spec, plan.snapshot, options, arguments),
        *unguarded_issues(version, options, arguments, environment, f"{plan.folder}/key"),
        *taken_issues(version, options, arguments, plan.media_root),
    ]


def unguarded_issues(
    version: str,
    options: Mapping[str, object],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    key_file: str,
) -> list[Issue]:
    """What would let requests past the key; nobody may know better, since everybody gets in.

    Args:
        version: of vLLM, whose parser takes beginnings of flags, too.
        options: of ``vllm serve``, as they are used.
        arguments: further ones.
        environment: the engine's.
        key_file: the endpoint's own.
    """
    places = _places(version, options, arguments)
    found = [(place, _OPENS[name]) for name, place in places.items() if name in _OPENS]
    # vLLM reads it as a number (vllm/envs.py).
    if environment.get(_RUST_FRONTEND, "").strip() not in {"", "0"}:
        found.append((f"environment.{_RUST_FRONTEND}", "starts another server, without the key"))
    if environment.get(_KEY_FILE, key_file) != key_file:
        found.append((f"environment.{_KEY_FILE}", "takes the place of the endpoint's own key"))
    return [
        Issue("unguarded", place, f"{place} {why}", f"leave {place} out") for place, why in found
    ]


def taken_issues(
    version: str, options: Mapping[str, object], arguments: Sequence[str], media_root: str
) -> list[Issue]:
    """Options of ``vllm serve`` that are not for anybody to give; as for `unguarded_issues`.

    Args:
        version: of vLLM.
        options: as they are used.
        arguments: further ones.
        media_root: the folder of ``file://`` images that was decided.
    """
    others = {k: v for k, v in options.items() if (k, v) != (_LOCAL_MEDIA, media_root)}
    return [
        Issue("engine-flag", place, f"hpcvlm itself sets {place}", _SAID_ELSEWHERE[name])
        for name, place in _places(version, others, arguments).items()
        if name in _SAID_ELSEWHERE
    ]


def _places(
    version: str, options: Mapping[str, object], arguments: Sequence[str]
) -> dict[str, str]:
    """Where each flag is given, by its own name."""
    places = {canonical(name): f"options.{name}" for name, value in options.items() if value}
    return places | {
        name: one.partition("=")[0] for one in arguments if (name := meant(one, version))
    }


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
