"""Ways to an engine: directly, or through ssh; each can be lost and taken again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach import process, ssh
from hpcvlm.reach.model import Kind, Route, Via, Where
from hpcvlm.reach.process import Tied

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# Somebody may have to find a telephone for the second factor.
_ASKED_S = 180.0
_UNASKED_S = 45.0
_COMMAND_S = 60.0
_DIAL_S = 10.0
_POLL_S = 0.05
_LONGEST_PAUSE_S = 30.0


class Login:
    """The one connection to the login node, made when it is first needed and again when lost."""

    def __init__(self, via: Via, folder: Path) -> None:
        self.via = via
        self.hops = ssh.Hops(via, str(folder / "login"))
        self._folder = folder
        self._master: Tied | None = None
        self._lock = asyncio.Lock()
        self._failure: HpcvlmError | None = None
        self._not_before = self._pause_s = 0.0
        self._configured: dict[str, ssh.Configured] = {}

    @property
    def host(self) -> str:
        """Where it leads; empty where no login node is gone through."""
        return self.via.login or ""

    async def configured(self, destination: str) -> ssh.Configured:
        """What the user's configuration says of a destination."""
        if destination not in self._configured:
            said = await _run(ssh.ask_configuration(self.via, destination), _UNASKED_S)
            if said.code:
                raise ssh_error(said.stderr, destination, self.via)
            self._configured[destination] = ssh.parse_configuration(said.stdout)
        return self._configured[destination]

    async def ensure(self) -> Tied:
        """The connection; made if there is none.

        Raises:
            HpcvlmError: ``ssh-failed``, ``ssh-refused``.
        """
        async with self._lock:
            if self._master is not None and not self._master.is_over:
                return self._master
            if self._failure is not None and monotonic() < self._not_before:
                raise self._failure
            control = Path(self.hops.control)
            try:
                argv = ssh.master(self.hops, await self.configured(self.host))
                self._master = await start_ssh(argv, control, self.host, self.via)
            except HpcvlmError as error:
                # Many may want it at once; a login node is not to be knocked at all the time.
                self._pause_s = min(_LONGEST_PAUSE_S, max(1.0, 2 * self._pause_s))
                self._failure, self._not_before = error, monotonic() + self._pause_s
                raise
            self._failure, self._pause_s = None, 0.0
            return self._master

    async def run(self, words: str) -> process.Said:
        """Run a command line there.

        Raises:
            HpcvlmError: ``ssh-failed``, ``ssh-refused``.
        """
        await self.ensure()
        return await _run(ssh.remote_command(self.hops, words), _COMMAND_S)

    async def forward(self, local: Path, target: str) -> None:
        """Have a socket here forwarded from there.

        Raises:
            HpcvlmError: ``ssh-failed``, ``ssh-refused``.
        """
        await self.ensure()
        local.unlink(missing_ok=True)
        said = await _run(ssh.forward(self.hops, "forward", str(local), target), _COMMAND_S)
        if said.code:
            raise ssh_error(said.stderr or said.stdout, self.host, self.via)

    async def end_forward(self, local: Path, target: str) -> None:
        """End a forwarding; connections that are open go on."""
        if self._master is not None and not self._master.is_over:
            await _run(ssh.forward(self.hops, "cancel", str(local), target), _COMMAND_S)
        local.unlink(missing_ok=True)

    async def close(self) -> None:
        """End the connection."""
        if self._master is not None:
            await self._master.stop()


class Way:
    """A way to one engine. `up` is set while connections can be made on it.

    Attributes:
        open_connections: how many use it now.
    """

    def __init__(self, where: Where, route: Route) -> None:
        self.where = where
        self.route = route
        self.up = asyncio.Event()
        self.open_connections = 0

    async def open(self) -> None:
        """Make it usable.

        Raises:
            HpcvlmError: it cannot be; says whose words tell why.
        """

    async def lost(self) -> str:
        """Wait until it is lost; gives the reason."""
        await asyncio.Event().wait()
        return ""

    async def close(self) -> None:
        """End it, with the connections on it."""

    @property
    def socket(self) -> str | None:
        """The Unix socket here on which it begins; None where it begins with a TCP connection."""
        return self.route.target if self.route.kind is Kind.SOCKET else None

    def trouble(self) -> HpcvlmError | None:
        """What ssh said of the way that explains why it does not work; None without such words."""
        return None

    async def dial(self) -> Stream:
        """A new connection to the engine.

        Raises:
            OSError: it takes none.
            TimeoutError: it did not answer.
        """
        async with asyncio.timeout(_DIAL_S):
            if self.socket is not None:
                return await asyncio.open_unix_connection(self.socket)
            host, _, port = self.route.target.rpartition(":")
            return await asyncio.open_connection(host.strip("[]"), int(port))


class LoginWay(Way):
    """Forwarded by the login node, on the connection that is shared with everything else."""

    def __init__(self, where: Where, route: Route, login: Login, local: Path) -> None:
        super().__init__(where, route)
        self._login = login
        self._local = local
        self._master: Tied | None = None

    async def open(self) -> None:
        """Connect to the login node, if need be, and forward."""
        self._master = await self._login.ensure()
        await self._login.forward(self._local, self.route.target)

    async def lost(self) -> str:
        """Wait until the connection to the login node ends."""
        assert self._master is not None  # noqa: S101 - it was opened
        await self._master.wait()
        return _reason(self._master, self._login.host, self._login.via)

    async def close(self) -> None:
        """End the forwarding; the connection to the login node stays."""
        await self._login.end_forward(self._local, self.route.target)

    @property
    def socket(self) -> str | None:
        """The socket that ssh listens on."""
        return str(self._local)

    def trouble(self) -> HpcvlmError | None:
        """What ssh's last words say is wrong with the way."""
        return _trouble(self._master, self._login.host, self._login.via)


class NodeWay(Way):
    """Forwarded by the engine's own node, where it listens on loopback or on a socket."""

    def __init__(self, where: Where, route: Route, login: Login, local: Path) -> None:
        super().__init__(where, route)
        self._login = login
        self._local = local
        self._process: Tied | None = None

    async def open(self) -> None:
        """Connect to the node, through the login node if there is one."""
        login, node = self._login, self.route.node
        await self.close()
        through = None
        if login.host:
            await login.ensure()
            through = await login.configured(login.host)
        argv = ssh.to_node(
            login.hops,
            node,
            str(self._local),
            self.route.target,
            login=through,
            to=await login.configured(node),
        )
        self._process = await start_ssh(argv, self._local, node, login.via)

    async def lost(self) -> str:
        """Wait until ssh ends."""
        assert self._process is not None  # noqa: S101 - it was opened
        await self._process.wait()
        return _reason(self._process, self.route.node, self._login.via)

    async def close(self) -> None:
        """End ssh."""
        if self._process is not None:
            await self._process.stop()
        self._local.unlink(missing_ok=True)

    @property
    def socket(self) -> str | None:
        """The socket that ssh listens on."""
        return str(self._local)

    def trouble(self) -> HpcvlmError | None:
        """What ssh's last words say is wrong with the way."""
        return _trouble(self._process, self.route.node, self._login.via)


def way_maker(login: Login, folder: Path) -> Callable[[Where, Route], Way]:
    """Gives the maker of ways for one session; each way has a socket of its own in the folder."""
    number = 0

    def make(where: Where, route: Route) -> Way:
        nonlocal number
        number += 1
        local = folder / f"way{number}"
        if route.kind is Kind.LOGIN:
            return LoginWay(where, route, login, local)
        if route.kind is Kind.NODE:
            return NodeWay(where, route, login, local)
        return Way(where, route)

    return make


async def start_ssh(argv: list[str], sign: Path, destination: str, via: Via) -> Tied:
    """Start an ssh that stays, and wait until it has made the socket that shows that it is in.

    Raises:
        HpcvlmError: ``ssh-failed``, or ``ssh-refused`` where trying again is of no use.
    """
    sign.unlink(missing_ok=True)
    try:
        started = await Tied.start(argv, at_terminal=via.may_ask)
    except OSError as error:
        raise HpcvlmError("ssh-failed", f"ssh cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(_ASKED_S if via.may_ask else _UNASKED_S):
            await _made(sign, started)
    except TimeoutError:
        await started.stop()
        raise ssh_error("timed out", destination, via) from None
    except BaseException:
        await started.stop()
        raise
    if started.is_over:
        raise ssh_error("\n".join(started.words), destination, via)
    return started


async def _made(sign: Path, started: Tied) -> None:
    """Wait until the socket is there, or the process is over and has said why."""
    while not sign.exists():
        if started.is_over:
            await started.wait()
            return
        await asyncio.sleep(_POLL_S)


def ssh_error(words: str, destination: str, via: Via) -> HpcvlmError:
    """An error with ssh's own words in its details."""
    trouble = ssh.explain(words, destination, via)
    lines = tuple(f"ssh: {line.strip()}" for line in words.splitlines() if line.strip())
    code = "ssh-refused" if trouble.lasting else "ssh-failed"
    return HpcvlmError(code, trouble.sentence, trouble.remedy, lines[-6:])


def _trouble(running: Tied | None, destination: str, via: Via) -> HpcvlmError | None:
    words = running.words[-1] if running is not None and running.words else ""
    return (
        ssh_error(words, destination, via) if ssh.explain(words, destination, via).known else None
    )


def _reason(ended: Tied, destination: str, via: Via) -> str:
    error = ssh_error("\n".join(ended.words), destination, via)
    return error.details[-1] if error.details else f"ssh to {destination} ended"


async def _run(argv: list[str], timeout_s: float) -> process.Said:
    try:
        return await process.run(argv, timeout_s)
    except OSError as error:
        raise HpcvlmError("ssh-failed", f"ssh cannot be started: {error.strerror}") from None
