"""Where a name listens now, and the way that leads there: values and pure decisions."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from hpcvlm.endpoints.endpoint import same_machine
from hpcvlm.errors import HpcvlmError

LOOPBACK = "127.0.0.1"
_OVER = ("failed", "ended")
# A host, USER@HOST, a name of ~/.ssh/config, or ssh://USER@HOST:PORT; IPv6 in brackets.
_DESTINATION = re.compile(r"[A-Za-z0-9_\[][\w.@:/%+=~\[\]-]*", re.ASCII)
_JUMPS = re.compile(rf"{_DESTINATION.pattern}(,{_DESTINATION.pattern})*", re.ASCII)
# ssh takes a colon in a path for its own, and expands % and ${...}.
_SOCKET_PATH = re.compile(r"/[\w./+=@,~-]+", re.ASCII)
_WANTED = re.compile(r"[A-Za-z0-9][\w.~+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Where:
    """Where the job listens that a name means.

    Attributes:
        name: of the job.
        model: id under which the engine serves it.
        executor: ``slurm`` or ``local``.
        listen: ``node``, ``loopback`` or ``socket``.
        host: the machine that it runs on.
        port: None where it listens on a socket.
        socket: path of the socket on `host`, or None.
        key_file: the key's file, on the file system of the cluster.
        ends: seconds since the epoch, None when unknown.
        kept_until: seconds since the epoch until which successors are queued, None without any.
    """

    name: str
    job_id: str
    model: str
    executor: str
    listen: str
    host: str
    port: int | None
    socket: str | None
    key_file: str
    ends: float | None = None
    kept_until: float | None = None

    @property
    def address(self) -> tuple[str, str, int | None, str | None]:
        """What tells one running engine from another."""
        return (self.job_id, self.host, self.port, self.socket)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look at a name gave.

    Attributes:
        where: None unless the endpoint is ready.
        described: its state in a few words.
        over: whether it will not come back.
    """

    where: Where | None
    described: str
    over: bool = False


@dataclass(frozen=True, slots=True)
class Via:
    """How the cluster is reached from this machine.

    Attributes:
        login: destination for ssh, None on the cluster itself.
        jump: as ssh's ``-J``, for the login node; None without.
        config: used instead of ``~/.ssh/config``; None for that.
        may_ask: whether ssh may ask for a password or a code; it does so at the terminal.
    """

    login: str | None = None
    jump: str | None = None
    config: str | None = None
    may_ask: bool = False


class Kind(StrEnum):
    """What leads to an engine."""

    TCP = "tcp"  # a connection from here
    SOCKET = "socket"  # a Unix socket of this machine
    LOGIN = "login"  # forwarded by the login node
    NODE = "node"  # forwarded by the engine's own node


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one engine.

    Attributes:
        target: ``HOST:PORT`` or the path of a socket, as whoever connects there names it.
        node: the node that ssh goes to, for `Kind.NODE`.
    """

    kind: Kind
    target: str
    node: str = field(default="")


def find_route(where: Where, via: Via, here: str) -> Route:
    """The way to an engine.

    Args:
        where: the engine.
        via: how the cluster is reached.
        here: this machine's name.

    Raises:
        HpcvlmError: ``endpoint-unreachable`` for an address that ssh cannot be told.
    """
    on_its_node = where.socket or f"{LOOPBACK}:{where.port}"
    if via.login is None and same_machine(where.host, here):
        return Route(Kind.SOCKET if where.socket else Kind.TCP, on_its_node)
    _check(where)
    host = f"[{where.host}]" if ":" in where.host else where.host
    elsewhere = f"{host}:{where.port}"
    if via.login is None:
        if where.listen == "node":
            return Route(Kind.TCP, elsewhere)
        return Route(Kind.NODE, on_its_node, where.host)
    if where.executor == "local":
        return Route(Kind.LOGIN, on_its_node)
    if where.listen == "node":
        return Route(Kind.LOGIN, elsewhere)
    return Route(Kind.NODE, on_its_node, where.host)


def _check(where: Where) -> None:
    if not _DESTINATION.fullmatch(where.host):
        raise HpcvlmError(
            "endpoint-unreachable", f"{where.name} says that it runs on {where.host!r}: no host"
        )
    if where.socket is not None and not _SOCKET_PATH.fullmatch(where.socket):
        raise HpcvlmError(
            "endpoint-unreachable",
            f"ssh cannot be told the socket {where.socket!r} of {where.name}",
            "launch with --listen loopback, or with a TMPDIR of letters and digits",
        )


def parse_status(text: str) -> Sighting:
    """What ``hpcvlm status NAME --json`` printed.

    A login shell may print a greeting before it; everything up to the first brace that begins a
    line is passed over.

    Raises:
        HpcvlmError: ``remote-output`` when it is not what that command prints.
    """
    start = re.search(r"^\{", text, re.MULTILINE)
    try:
        data = json.loads(text[start.start() :] if start else text)
        return sighting(data)
    except (ValueError, TypeError, KeyError, AttributeError):
        first = text.strip().splitlines()[:1]
        raise HpcvlmError(
            "remote-output",
            "what the login node printed is not the state of an endpoint",
            "the same version of hpcvlm is wanted there; --remote-command says where it is",
            tuple(first),
        ) from None


def sighting(data: dict[str, Any]) -> Sighting:
    """The sighting in the JSON of one endpoint.

    Raises:
        KeyError: a part of it is missing.
        TypeError: a part of it is of another type.
        ValueError: as above.
    """
    state, described = str(data["state"]), str(data["description"])
    if state != "ready":
        return Sighting(None, described, state in _OVER)
    ends, kept = data["ends"], data.get("kept_until")
    address = urlsplit(str(data["url"]))
    socket = None if data["socket"] is None else str(data["socket"])
    where = Where(
        name=str(data.get("job_name") or data["name"]),
        job_id=str(data["job_id"]),
        model=str(data["served_name"]),
        executor=str(data["executor"]),
        listen=_listen(address.hostname or "", socket),
        host=str(data["host"]),
        port=None if socket else address.port,
        socket=socket,
        key_file=str(data["key_file"]),
        ends=None if ends is None else float(ends),
        kept_until=None if kept is None else float(kept),
    )
    return Sighting(where, described)


def _listen(host: str, socket: str | None) -> str:
    if socket is not None:
        return "socket"
    return "loopback" if host == LOOPBACK else "node"


def check_destination(option: str, value: str) -> str:
    """A destination for ssh, or a list of jump hosts, that cannot be taken for an option.

    Raises:
        HpcvlmError: ``option-invalid``.
    """
    pattern = _JUMPS if option == "--jump" else _DESTINATION
    if not pattern.fullmatch(value):
        raise HpcvlmError(
            "option-invalid",
            f"{option} {value!r} is no destination for ssh",
            "USER@HOST, or a Host of ~/.ssh/config",
        )
    return value


def check_wanted(name: str) -> str:
    """A name, a prefix of one or a job id, that may go to another machine's shell.

    Raises:
        HpcvlmError: ``endpoint-unknown``: no endpoint can have such a name.
    """
    if not _WANTED.fullmatch(name):
        raise HpcvlmError(
            "endpoint-unknown",
            f"no endpoint is called {name!r}",
            "hpcvlm ls shows all of them",
        )
    return name
