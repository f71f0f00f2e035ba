"""What a program that launched an endpoint is told while it uses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EndpointEvent:
    """Something that became of an endpoint.

    Attributes:
        kind: ``submitted``, ``phase``, ``ready``, ``expiring``, ``ended`` or ``lease-failed``.
        name: of the endpoint.
        text: one sentence for a person.
        left_s: seconds until its time is over, for ``expiring``.
    """

    kind: str
    name: str
    text: str
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """What is true of an endpoint at one moment.

    Attributes:
        state: ``waiting``, ``ready``, ``failed``, ``ended`` or ``unknown``.
        text: the same in a few words: a phase, a reason.
        ends: seconds since the epoch at which its time is over, None when unknown.
    """

    state: str
    text: str
    ends: float | None


class EndpointWarning(UserWarning):
    """The end of an endpoint is near, or it has ended by itself."""


OnEvent = Callable[[EndpointEvent], None]
