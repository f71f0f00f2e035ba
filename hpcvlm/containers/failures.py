"""Why a build or a pull failed, from its log. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hpcvlm.containers.model import Finding


class _Cause(NamedTuple):
    code: str
    pattern: str
    sentence: str
    remedy: str


_MOST_LINES = 8
_TELLING = re.compile(r"^(FATAL|ERROR|E):|\b(error|fatal|cannot|denied|failed)\b", re.IGNORECASE)
_NOISE = re.compile(r"^(INFO|DEBUG|hpcvlm:|\+ )|^WARNING: No default remote")
# Words of Apptainer 1.4 and its library containers/image; the first that is found counts.
_CAUSES = (
    _Cause(
        "container-space",
        r"no space left on device|disk quota exceeded",
        "the disk is full",
        "name a folder with space as 'temporary:' or 'cache:' under 'images:' in the site file",
    ),
    _Cause(
        "registry-refused",
        r"unauthorized|authentication required|\b401\b|\b403\b|requested access .* is denied",
        "{host} does not let you have it",
        "{runtime} registry login --username NAME docker://{host}",
    ),
    _Cause(
        "container-missing",
        r"manifest unknown|name unknown|\b404\b|not found: manifest|repository .* not found",
        "{host} has no such image",
        "look for its tag: https://hub.docker.com/r/vllm/vllm-openai/tags, or vllm-openai-rocm",
    ),
    _Cause(
        "container-altered",
        r"digest.* (did not|does not|doesn't) match|digest mismatch|error verifying sha256",
        "what {host} sent is not what it should be",
        "try again; if it stays, ask whoever runs {host}",
    ),
    _Cause(
        "registry-unreachable",
        r"no such host|connection re(fused|set)|i/o timeout|TLS handshake|unexpected EOF"
        r"|network is unreachable|\b50[0-4]\b|server error|toomanyrequests|\b429\b",
        "{host} does not answer as it should",
        "try again, build where {host} can be reached (--as job, --as here), or name a mirror as "
        "'registry:' under 'images:' in the site file",
    ),
    _Cause(
        "container-build",
        r"fakeroot|newuidmap|subuid|user namespace",
        "this account may not build with a container's root",
        "ask the admins for a line of yours in /etc/subuid and /etc/subgid, or build where "
        "'{runtime} build --fakeroot' works",
    ),
)


def telling_lines(log: str) -> tuple[str, ...]:
    """The last lines of a log that tell what went wrong, oldest first."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", log) if line.strip()]
    lines = [line for line in lines if not _NOISE.search(line)]
    telling = [line for line in lines if _TELLING.search(line)] or lines
    return tuple(line[:300] for line in dict.fromkeys(telling[-_MOST_LINES:]))


def cause(lines: Sequence[str], *, runtime: str, host: str) -> Finding | None:
    """What stands behind a failure, if it is one that is known.

    Args:
        lines: as `telling_lines` gives them.
        runtime: what built.
        host: of the registry; empty where none was asked.
    """
    text = "\n".join(lines)
    for code, pattern, sentence, remedy in _CAUSES:
        if not host and "{host}" in sentence:
            continue
        if re.search(pattern, text, re.IGNORECASE):
            words = {"host": host, "runtime": runtime}
            return Finding(code, sentence.format(**words), remedy.format(**words))
    return None
