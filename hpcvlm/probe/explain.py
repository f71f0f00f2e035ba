"""Why a request was not answered as asked: an engine's words turned into ours. No effects."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcvlm.probe.model import Kind
from hpcvlm.probe.replies import Reply, Trouble, engine_message

UNAUTHORIZED = 401
FORBIDDEN = 403
SECONDS_SHOWN_WHOLE = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed: its sort, one sentence, and what to do."""

    kind: Kind
    reason: str
    remedy: str = ""


def explain(reply: Reply) -> Failure:
    """Why a request was not answered as asked; for any reply whose status is not 200."""
    if reply.status is None:
        return _explain_trouble(reply)
    message = engine_message(reply.body)
    for pattern, kind, reason, remedy in _ENGINE_WORDS:
        found = re.search(pattern, message)
        if found:
            return Failure(kind, found.expand(reason), found.expand(remedy))
    return _explain_status(reply.status, message)


def _explain_trouble(reply: Reply) -> Failure:
    kind, reason, remedy = _TROUBLES[reply.trouble]
    return Failure(kind, reason.format(seconds=_shown(reply.seconds), detail=reply.detail), remedy)


def _shown(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= SECONDS_SHOWN_WHOLE else f"{seconds:.1f}"


def _explain_status(status: int, message: str) -> Failure:
    if status in (UNAUTHORIZED, FORBIDDEN):
        return Failure(
            Kind.AUTH,
            f"the endpoint refused the key (HTTP {status})",
            "check that the key is the one of this job: each job makes its own",
        )
    said = f": {message}" if message else ""
    reason = f"the endpoint answered HTTP {status}{said}"
    return Failure(Kind.ENGINE, reason, "see the engine's log")


_TROUBLES: dict[Trouble, tuple[Kind, str, str]] = {
    Trouble.NONE: (Kind.ENGINE, "no answer came", ""),
    Trouble.REFUSED: (
        Kind.UNREACHABLE,
        "the endpoint cannot be reached: {detail}",
        "check the address and that the job still runs; from outside the cluster, open a tunnel",
    ),
    Trouble.NAME: (
        Kind.UNREACHABLE,
        "the endpoint's host name is not known on this machine: {detail}",
        "run the test on a node of the cluster, or open a tunnel first",
    ),
    Trouble.CONNECT_TIMEOUT: (
        Kind.UNREACHABLE,
        "the endpoint's address does not answer: no connection after {seconds} s",
        "no route or a firewall: run the test on a node of the cluster, or open a tunnel first",
    ),
    Trouble.TIMEOUT: (
        Kind.TIMEOUT,
        "the endpoint took the request and did not answer within {seconds} s",
        "see the engine's log: it may be busy, still compiling, or stuck; or allow more time",
    ),
    Trouble.TLS: (
        Kind.UNREACHABLE,
        "no secure connection to the endpoint: {detail}",
        "check http against https, and the certificate",
    ),
    Trouble.BROKEN: (
        Kind.UNREACHABLE,
        "the endpoint closed the connection without an answer: {detail}",
        "the engine may have died: hpcvlm why NAME, or its log",
    ),
    Trouble.NOT_HTTP: (
        Kind.UNREACHABLE,
        "what listens at this address does not speak HTTP: {detail}",
        "check the port, and http against https",
    ),
}

_NO_WAY_THERE = (
    "Cannot connect to host|ClientConnector|Connect(?:ion)? ?[Tt]imeout|timed out|TimeoutError"
    "|Name or service not known|Temporary failure in name resolution|Network is unreachable"
    "|No route to host|HTTP fetch failed"
)

# The engine's own words, as vLLM 0.9 to 0.33 says them, most telling first. Groups may be used
# in the reason and the remedy.
_ENGINE_WORDS: tuple[tuple[str, Kind, str, str], ...] = (
    (
        r"is not a multimodal model|[Uu]nknown part type|image input is not supported",
        Kind.NO_VISION,
        "this server has no vision: it takes text only",
        "serve a vision-language model",
    ),
    (
        r"[Aa]t most 0 image",
        Kind.NO_VISION,
        "this server has no vision: its limit is 0 images",
        "raise the image limit of the model's entry",
    ),
    (
        r"[Aa]t most (\d+) (image|video|audio)",
        Kind.LIMIT,
        r"the server takes at most \1 \2(s) in one request",
        "send fewer, or raise the limit of the model's entry",
    ),
    (
        r"must be from one of the allowed domains: (\[[^\]]*\])",
        Kind.POLICY,
        r"the engine may fetch images only from \1",
        "send the image as base64, or add the host to the allowed media domains",
    ),
    (
        r"Cannot load local files without",
        Kind.POLICY,
        "the engine was started without an allowed media folder: it reads no local file",
        "send the image as base64, or start the engine with a media root",
    ),
    (
        r"must be a subpath of .--allowed-local-media-path",
        Kind.POLICY,
        "the file lies outside the folder from which the engine may read media",
        "put the file below the engine's media root",
    ),
    (
        r"must be either a HTTP",
        Kind.POLICY,
        "the engine fetches images by http, https, data and file addresses only",
        "use one of these, or send the image as base64",
    ),
    (
        r"Failed to fetch media from URL: HTTP (\d+)",
        Kind.REMOTE,
        r"the picture's server answered the engine HTTP \1",
        "check the address from the engine's node; some servers refuse programs",
    ),
    (
        r"No such file or directory",
        Kind.MOUNT,
        "the engine does not see the file",
        "bind the media root into the engine's container, on a file system that its node shares",
    ),
    (
        _NO_WAY_THERE,
        Kind.NETWORK,
        "the engine's node could not reach the image's address",
        "send the image as base64, or give the engine a proxy",
    ),
    (
        r"maximum context length is (\d+) tokens|longer than the maximum model length of (\d+)",
        Kind.CONTEXT,
        r"the request does not fit into the engine's context of \1\2 tokens",
        "raise the model length, or send a smaller image",
    ),
    (
        r"[Tt]he model .(\S+?). does not exist",
        Kind.MODEL,
        r"the endpoint serves no model named \1",
        "ask for one of the ids that /v1/models lists",
    ),
    (
        r"Failed to load image|cannot identify image file",
        Kind.ENGINE,
        "the engine could not read the image",
        "check that the file is a whole PNG, JPEG or WebP",
    ),
)
