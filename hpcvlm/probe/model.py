"""What the smoke test works on and what it finds: frozen values, no effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Verdict(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Kind(StrEnum):
    """What sort of failure it was, so that a script can act on it."""

    NONE = ""
    UNREACHABLE = "unreachable"  # this machine cannot talk to the endpoint
    TIMEOUT = "timeout"  # the endpoint took the request and did not answer in time
    AUTH = "auth"  # the endpoint refused the key
    OPEN = "open"  # the endpoint answers without the key
    MODEL = "model"  # an answer came, and it was wrong
    NO_VISION = "no-vision"  # the served model takes text only
    NETWORK = "network"  # the engine's node could not fetch the picture
    REMOTE = "remote"  # the picture's server refused the engine
    POLICY = "policy"  # the engine is told not to fetch from there
    MOUNT = "mount"  # the engine does not see the file
    LIMIT = "limit"  # more images were asked than the engine takes
    CONTEXT = "context"  # the request is longer than the model length
    STREAM = "stream"  # the answer did not come as a stream
    PROTOCOL = "protocol"  # the answer was not what the API promises
    ENGINE = "engine"  # the engine failed in another way
    LOCAL = "local"  # this machine's own files or addresses


class Sees(StrEnum):
    """Whether the answer named what was in the picture."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint to be tested.

    Args:
        url: base address such as ``http://node07:8000``; a path below it (a gateway's prefix) is
            kept, a trailing ``/v1`` is not wanted.
        key: the bearer key, or None when the endpoint takes everyone.
        model: the served model id.
        vision: whether the model is expected to take images; None when unknown. Images are not
            asked of a model that is expected to take text only.
        image_limit: most images in one request, or None when unknown.
        media_folder: a folder that this machine and the engine both see, below the engine's
            allowed media root; the test writes one picture there and removes it.
        same_host: the engine runs on this machine.
        socket: Unix socket through which the endpoint is reached; `url` then only names it.
    """

    url: str
    key: str | None = field(repr=False)
    model: str
    vision: bool | None = None
    image_limit: int | None = None
    media_folder: Path | None = None
    same_host: bool = False
    socket: Path | None = None


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came out of one case.

    Args:
        name: the case, such as ``image_base64``.
        verdict: passed, failed or skipped.
        reason: one sentence; for a passed case what was seen.
        remedy: what to do about a failure; may be empty.
        kind: the sort of failure; empty unless failed, or skipped since a policy forbids it.
        latency_s: seconds from the request to the end of the answer.
        first_token_s: seconds to the first piece of text of a stream.
        prompt_tokens: as the engine counted them.
        completion_tokens: as the engine counted them.
        image_tokens: prompt tokens beyond those of the same request without its images.
        answer: what the model said.
        expected: what was in the picture.
        sees: whether the answer named it.
        http_status: status of the answer, if one came.
        fetched_from: address from which the engine fetched the picture.
    """

    name: str
    verdict: Verdict
    reason: str
    remedy: str = ""
    kind: Kind = Kind.NONE
    latency_s: float | None = None
    first_token_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    image_tokens: int | None = None
    answer: str | None = None
    expected: str | None = None
    sees: Sees = Sees.UNKNOWN
    http_status: int | None = None
    fetched_from: str | None = None


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The smoke test of one endpoint. It never holds the key.

    Args:
        url: the endpoint, without credentials.
        model: the served model id.
        engine_version: what ``/version`` said, if it did.
        system_fingerprint: what the answers carried, if they did.
        seed: number from which the pictures were drawn; the same number draws them again.
        require_naming: whether a picture had to be named.
        started: seconds since the epoch.
        seconds: how long the whole test took.
        results: one for every case, in the order in which they ran.
    """

    url: str
    model: str
    engine_version: str | None
    system_fingerprint: str | None
    seed: int
    require_naming: bool
    started: float
    seconds: float
    results: tuple[CaseResult, ...]

    @property
    def ok(self) -> bool:
        """True when something passed and nothing failed."""
        verdicts = {result.verdict for result in self.results}
        return Verdict.PASSED in verdicts and Verdict.FAILED not in verdicts
