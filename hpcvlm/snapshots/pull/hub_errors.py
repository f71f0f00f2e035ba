"""What the hub's refusals and the network's failures mean for a user.

huggingface_hub raises the errors of its HTTP library, which is another one in nearly every major
version (requests, httpx, httpx2). They are told apart by the package that they come from.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError

DEFAULT_ENDPOINT = "https://huggingface.co"
_NETWORK = {"requests", "urllib3", "httpx", "httpcore", "httpx2", "httpcore2"}
_TRUE = {"1", "ON", "YES", "TRUE"}
_BUSY = 429
_FORBIDDEN = 403
_UNAUTHORISED = 401
_SERVER = 500
PASSING = frozenset({408, 500, 502, 503, 504})
# Query strings of a CDN's addresses are signatures; user and password may stand before a host.
_SECRET = re.compile(r"(\?[^\s'\"]+)|(?<=//)[^/@\s]+@")


class Hub(NamedTuple):
    """A hub, and who asks.

    Attributes:
        endpoint: its address, as HF_ENDPOINT has it, without a slash at the end.
        proxy: the proxy that is used for it; empty for none.
        offline: the variable that forbids to ask it; empty where none does.
    """

    endpoint: str = DEFAULT_ENDPOINT
    proxy: str = ""
    offline: str = ""


def hub_of(environment: Mapping[str, str]) -> Hub:
    """The hub that an environment names, with the variables that huggingface_hub reads."""
    endpoint = (environment.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
    scheme = endpoint.partition("://")[0].upper()
    names = (f"{scheme}_PROXY", f"{scheme.lower()}_proxy", "ALL_PROXY", "all_proxy")
    proxy = next((environment[name] for name in names if environment.get(name)), "")
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    off = next((n for n in switches if environment.get(n, "").upper() in _TRUE), "")
    return Hub(endpoint, without_secrets(proxy), off)


def without_secrets(text: str) -> str:
    """A text without the signatures and passwords that stand in addresses."""
    return _SECRET.sub("", text)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error of the hub; 0 where it has none."""
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def is_network(error: BaseException) -> bool:
    """Whether the network, and not the hub's answer, is the trouble."""
    if status_of(error):
        return False
    package = type(error).__module__.partition(".")[0]
    return package in _NETWORK or isinstance(error, (ConnectionError, TimeoutError))


def wait_asked_for(error: BaseException) -> float | None:
    """Seconds that the hub asks to wait; None where it does not say.

    It says so with ``Retry-After``, or with ``RateLimit: "api";r=0;t=55``
    (https://huggingface.co/docs/hub/rate-limits).
    """
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, pattern in (("retry-after", r"\s*(\d+)\s*"), ("ratelimit", r".*;\s*t=(\d+).*")):
        if found := re.fullmatch(pattern, headers.get(name) or ""):
            return float(found[1])
    return None


def told(error: Exception, hub: Hub, repo: str, revision: str, path: str = "") -> HpcvlmError:
    """An error of huggingface_hub as a sentence, and what to do about it.

    Args:
        error: what was raised.
        hub: which was asked.
        repo: of the request.
        revision: as it was asked for.
        path: of the file; empty when it was no request for one.
    """
    if isinstance(error, HpcvlmError):
        return error
    status = status_of(error)
    what = f"{path} of {repo}" if path else repo
    known = _by_class(error, hub, repo, revision, path)
    if known is not None:
        return known
    if status == _UNAUTHORISED and not _is_bad_token(error):
        # The hub says 401 of what is not there to whoever shows no token; huggingface_hub knows
        # that of its own endpoint, not of a mirror.
        return _unknown(repo, hub)
    if status:
        return _by_status(error, status, what, hub)
    if is_network(error):
        return unreachable(hub, what, error)
    if isinstance(error, OSError):
        return file_trouble(error)
    raise error


def _by_class(
    error: Exception, hub: Hub, repo: str, revision: str, path: str
) -> HpcvlmError | None:
    from huggingface_hub import errors

    page = f"{hub.endpoint}/{repo}"
    found: HpcvlmError | None = None
    if isinstance(error, errors.GatedRepoError):
        found = _gated(repo, page, status_of(error))
    elif isinstance(error, errors.RevisionNotFoundError):
        found = HpcvlmError(
            "hub-revision-unknown",
            f"{repo} has no branch, tag or commit {revision} at {hub.endpoint}",
            f"see {page}/commits/main, or leave --revision out",
        )
    elif isinstance(error, errors.EntryNotFoundError):
        found = HpcvlmError(
            "hub-entry-unknown",
            f"{path or 'a file'} is not in {repo} at {revision}",
            f"see {page}/tree/{revision}",
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        found = _unknown(repo, hub)
    elif isinstance(error, errors.HFValidationError):
        found = HpcvlmError(
            "option-invalid", f"{repo!r} is no repository's name", "write it as OWNER/NAME"
        )
    elif isinstance(error, errors.FileMetadataError) or _is_no_hub(error):
        found = HpcvlmError(
            "hub-unreachable",
            f"{hub.endpoint} answers, but not as a hub does, when asked for {path or repo}",
            "a proxy's page may have come instead; look at HF_ENDPOINT, and try: curl -i "
            f"{hub.endpoint}/api/models/{repo}",
            _first_line(error),
        )
    return found


def _is_bad_token(error: Exception) -> bool:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return "credentials" in (headers.get("X-Error-Message") or "")


def _is_no_hub(error: Exception) -> bool:
    """Whether something else than the hub's JSON came."""
    return isinstance(error, (ValueError, KeyError, TypeError)) and not is_network(error)


def offline(hub: Hub, repo: str) -> HpcvlmError:
    """The environment forbids to ask the hub."""
    return HpcvlmError(
        "hub-offline",
        f"{hub.offline} is set, so {repo} cannot be pulled from {hub.endpoint}",
        f"unset {hub.offline}; without a network: hpcvlm snapshots export there, import here",
    )


def unreachable(hub: Hub, what: str, error: Exception) -> HpcvlmError:
    """The network gave no answer."""
    remedy = f"curl -I {hub.endpoint} tells more; "
    if hub.proxy:
        remedy += f"the proxy {hub.proxy} of the environment was used"
    else:
        remedy += "where the network needs a proxy: export HTTPS_PROXY=http://HOST:PORT"
    return HpcvlmError(
        "hub-unreachable",
        f"{hub.endpoint} cannot be reached for {what}",
        f"{remedy}; what has come is kept, the same command goes on from there",
        _first_line(error),
    )


def file_trouble(error: OSError, path: str = "") -> HpcvlmError:
    """What the file system said, as a sentence with the name of the file."""
    import errno

    name = path or str(error.filename or "the store")
    reason = error.strerror or str(error)
    other = "name another cache: --to FOLDER"
    forbidden = ("store-unwritable", f"see who may: ls -ld {name}; or {other}")
    kinds = {
        errno.ENOSPC: ("store-space", f"make room (hpcvlm snapshots prune), or {other}"),
        errno.EDQUOT: ("store-quota", f"ask for more quota, or {other}"),
        errno.EROFS: ("store-unwritable", other),
        errno.EACCES: forbidden,
        errno.EPERM: forbidden,
    }
    code, remedy = kinds.get(error.errno or 0, ("store-failed", "look at the file system"))
    after = "; what has come is kept, the same command then goes on from there"
    return HpcvlmError(code, f"{name}: {reason}", f"{remedy}{after}")


def _gated(repo: str, page: str, status: int) -> HpcvlmError:
    if status == _UNAUTHORISED:
        return HpcvlmError(
            "hub-gated",
            f"{repo} is gated, and no token tells the hub who you are",
            f"accept the terms at {page}, then: hf auth login, or export HF_TOKEN=…",
        )
    return HpcvlmError(
        "hub-gated",
        f"{repo} is gated, and whoever the token belongs to has not been let in",
        f"accept the terms at {page} (its owner may have to agree), or use another account's "
        "token: hf auth login, or HF_TOKEN",
    )


def _unknown(repo: str, hub: Hub) -> HpcvlmError:
    return HpcvlmError(
        "hub-repo-unknown",
        f"{hub.endpoint} knows no model {repo}, or it is private and not yours to see",
        "look at its spelling; for a private one: hf auth login, or export HF_TOKEN=…",
    )


def _by_status(error: Exception, status: int, what: str, hub: Hub) -> HpcvlmError:
    if status == _BUSY:
        seconds = wait_asked_for(error)
        when = f"in {seconds:.0f} s" if seconds is not None else "in some minutes"
        return HpcvlmError(
            "hub-busy",
            f"{hub.endpoint} answers 429: too many requests from here, asked for {what}",
            f"try again {when}; with a token (hf auth login) the limits are higher",
        )
    if status in {_UNAUTHORISED, _FORBIDDEN}:
        return HpcvlmError(
            "hub-token",
            f"{hub.endpoint} does not take the token for {what} (HTTP {status})",
            "a token may be over, or not be for this: hf auth whoami; hf auth login",
        )
    if status >= _SERVER:
        return HpcvlmError(
            "hub-failed",
            f"{hub.endpoint} fails with HTTP {status} for {what}, also when asked again",
            "see https://status.huggingface.co, and try again later; what has come is kept",
        )
    return HpcvlmError("hub-failed", f"{hub.endpoint} answers HTTP {status} for {what}", "")


def _first_line(error: Exception) -> tuple[str, ...]:
    lines = without_secrets(str(error)).strip().splitlines()
    return (f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__,)


def timeout_s() -> float:
    """Seconds to wait for an answer, as huggingface_hub has them: HF_HUB_ETAG_TIMEOUT, else 10."""
    text = os.environ.get("HF_HUB_ETAG_TIMEOUT", "")
    return float(text) if text.isdigit() and int(text) else 10.0
