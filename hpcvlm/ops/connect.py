"""hpcvlm connect: a port here that leads to the endpoint that a name means, wherever it runs."""

from __future__ import annotations

import asyncio
import platform
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.reach.model import (
    LOOPBACK,
    Sighting,
    Via,
    Where,
    check_destination,
    check_wanted,
    find_route,
)

if TYPE_CHECKING:
    from hpcvlm.reach.folder import Folders
    from hpcvlm.reach.follow import Cluster, Event, Follower
    from hpcvlm.reach.relay import Relay
    from hpcvlm.reach.ways import Login, Way

_T = TypeVar("_T")
_COMMAND_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class ConnectRequest:
    """What is to be connected, and how.

    Attributes:
        name: name, unique prefix or job id.
        login: the login node, as ssh's destination; None on the cluster itself.
        jump: as ssh's -J, to reach the login node.
        ssh_config: used instead of ~/.ssh/config.
        remote_command: what runs hpcvlm on the login node.
        port: the port here; one that belongs to the name if left out.
        may_ask: whether ssh may ask at the terminal.
        poll_s: seconds between two looks at the name. Each costs a call of hpcvlm on the login
            node; a job that hands over takes requests for another 30 s.
    """

    name: str
    login: str | None = None
    jump: str | None = None
    ssh_config: Path | None = None
    remote_command: str = "hpcvlm"
    port: int | None = None
    may_ask: bool = False
    poll_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Connection:
    """A port here that leads to an endpoint; the key is in its file only.

    Attributes:
        key_file: on this machine.
        ends: seconds since the epoch at which the job that serves now ends.
    """

    name: str
    model: str
    port: int
    key_file: str
    job_id: str
    host: str
    ends: float | None

    @property
    def url(self) -> str:
        """Its address, without /v1."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def base_url(self) -> str:
        """What OpenAI clients call base_url."""
        return f"{self.url}/v1"


def connect(
    request: ConnectRequest,
    ctx: Context,
    *,
    on_event: Callable[[Event], None],
    on_up: Callable[[Connection], None],
    command: tuple[str, ...] = (),
) -> int:
    """Keep a connection until it is interrupted, its command ends, or the endpoint is over.

    Args:
        request: what to connect.
        ctx: the outside world.
        on_event: told of everything that happens.
        on_up: told once, when the endpoint can be reached.
        command: run with the variables of OpenAI's clients once it can be reached.

    Returns:
        The command's exit code; without one 0 after Ctrl-C, and 128 + the number of another signal.

    Raises:
        HpcvlmError: ``endpoint-unknown``, ``endpoint-over``, ``option-invalid``, ``port-taken``,
            ``ssh-failed``, ``ssh-refused``, ``remote-failed`` and others of the way there.
    """
    check_request(request)
    return asyncio.run(_connect(request, ctx, on_event, on_up, command))


@contextmanager
def connected(
    request: ConnectRequest, ctx: Context, on_event: Callable[[Event], None] = lambda _event: None
) -> Iterator[Connection]:
    """A connection that lasts as long as the block; it lives in a thread of its own.

    Raises:
        HpcvlmError: as `connect`.
    """
    check_request(request)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hpcvlm-connect", daemon=True)
    thread.start()

    def wait_for(work: Awaitable[_T]) -> _T:
        async def run() -> _T:
            return await work

        return asyncio.run_coroutine_threadsafe(run(), loop).result()

    session = _session(request, ctx, on_event)
    try:
        yield wait_for(session.__aenter__()).connection
    finally:
        with suppress(RuntimeError):
            wait_for(session.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def check_request(request: ConnectRequest) -> None:
    """Refuse what ssh or a shell could take for something else.

    Raises:
        HpcvlmError: ``option-invalid``, ``endpoint-unknown``.
    """
    check_wanted(request.name)
    if request.login is not None:
        check_destination("--login", request.login)
    if request.jump is not None:
        check_destination("--jump", request.jump)
    if request.login is None and request.jump is not None:
        raise HpcvlmError("option-invalid", "--jump is of no use without --login", "--login HOST")
    if request.ssh_config is not None and not request.ssh_config.is_file():
        raise HpcvlmError("option-invalid", f"--ssh-config {request.ssh_config} is no file")


@dataclass(frozen=True, slots=True)
class _Session:
    connection: Connection
    following: asyncio.Task[Sighting]
    key: Callable[[], str]


@asynccontextmanager
async def _session(
    request: ConnectRequest, ctx: Context, tell: Callable[[Event], None]
) -> AsyncIterator[_Session]:
    """Everything that runs while a connection lasts; the endpoint can be reached in the block."""
    from hpcvlm.reach.folder import session_folders
    from hpcvlm.reach.follow import Follower, Links
    from hpcvlm.reach.relay import Relay
    from hpcvlm.reach.ways import Login, way_maker

    config = None if request.ssh_config is None else str(request.ssh_config.absolute())
    via = Via(request.login, request.jump, config, request.may_ask)
    with session_folders(ctx.settings.state, request.name) as folders:
        login = Login(via, folders.sockets)
        keys = _Keys(folders, remote=via.login is not None)
        make, here = way_maker(login, folders.sockets), platform.node()

        def make_way(where: Where) -> Way:
            return make(where, find_route(where, via, here))

        links = Links(_cluster(request, ctx, login), make_way, tell, keys.learn)
        follower = Follower(links, poll_s=request.poll_s)
        relay = Relay(follower.pick, follower.poke, follower.why)
        following = asyncio.create_task(follower.run())
        try:
            port = await _listen(relay, request)
            await _first_up(follower, following)
            way = follower.current
            assert way is not None  # noqa: S101 - it has just come up
            where = way.where
            connection = Connection(
                where.name, where.model, port, keys.file, where.job_id, where.host, where.ends
            )
            yield _Session(connection, following, lambda: keys.key)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await relay.close()
            await follower.close()
            await login.close()


def _cluster(request: ConnectRequest, ctx: Context, login: Login) -> Cluster:
    if request.login is None:
        from hpcvlm.ops.connect_local import LocalCluster

        return LocalCluster(request.name, ctx)
    from hpcvlm.reach.remote import RemoteCluster

    return RemoteCluster(login, request.name, request.remote_command)


class _Keys:
    """The key of the endpoint, in a file on this machine."""

    def __init__(self, folders: Folders, *, remote: bool) -> None:
        self._folders = folders
        self._remote = remote
        self.key = ""
        self.file = ""

    async def learn(self, where: Where, key: str) -> None:
        """Keep the key; one that was fetched is put into a private file."""
        from hpcvlm.system.files import write_atomically

        self.key = key
        self.file = where.key_file
        if self._remote:
            self.file = str(self._folders.key)
            write_atomically(self._folders.key, key + "\n")


async def _listen(relay: Relay, request: ConnectRequest) -> int:
    from hpcvlm.reach.folder import ports_for

    wanted = [request.port] if request.port is not None else [*ports_for(request.name), 0]
    for port in wanted:
        with suppress(OSError):
            return await relay.listen(port)
    raise HpcvlmError(
        "port-taken", f"port {request.port} of this machine cannot be had", "another --port"
    )


async def _first_up(follower: Follower, following: asyncio.Task[Sighting]) -> None:
    """Wait until the endpoint can be reached.

    Raises:
        HpcvlmError: it will not be.
    """
    up = asyncio.create_task(follower.first_up.wait())
    try:
        await asyncio.wait({up, following}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
    if following.done():
        raise _over(following.result())


def _over(seen: Sighting) -> HpcvlmError:
    return HpcvlmError(
        "endpoint-over", f"the endpoint is over: {seen.described}", "hpcvlm ls --all"
    )


async def _connect(
    request: ConnectRequest,
    ctx: Context,
    on_event: Callable[[Event], None],
    on_up: Callable[[Connection], None],
    command: tuple[str, ...],
) -> int:
    signals = _Signals()
    with signals.caught():
        try:
            async with _session(request, ctx, on_event) as session:
                on_up(session.connection)
                if command:
                    return await _run(command, session, ctx, signals)
                raise _over(await session.following)
        except asyncio.CancelledError:
            if signals.first is None:
                raise
            return 0 if signals.first == signal.SIGINT else 128 + signals.first


class _Signals:
    """The first signal ends the connection, or goes to the command."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.process: asyncio.subprocess.Process | None = None

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block signals are taken here."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run made it
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._take, number, task)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _take(self, number: int, task: asyncio.Task[object]) -> None:
        again, self.first = self.first is not None, self.first or number
        if self.process is None:
            task.cancel()
        elif number != signal.SIGINT or again:
            # Ctrl-C reaches the command by itself: the terminal tells both of us.
            with suppress(ProcessLookupError):
                self.process.send_signal(number)
            asyncio.get_running_loop().call_later(_COMMAND_GRACE_S, self._kill)

    def _kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()


async def _run(command: tuple[str, ...], session: _Session, ctx: Context, signals: _Signals) -> int:
    """Run a command with the variables of OpenAI's clients; gives its exit code."""
    variables = client_variables(session.connection, session.key(), ctx.environment)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, env={**ctx.environment, **variables}
        )
    except OSError as error:
        raise HpcvlmError(
            "command-failed", f"cannot run {command[0]}: {error.strerror}", "check its name"
        ) from None
    signals.process = process
    code = await process.wait()
    signals.process = None
    return code if code >= 0 else 128 - code


def client_variables(
    connection: Connection, key: str, environment: Mapping[str, str]
) -> dict[str, str]:
    """What OpenAI's clients read; where a proxy is set, they are told to go without."""
    variables = {
        "OPENAI_BASE_URL": connection.base_url,
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": connection.model,
    }
    if any(name.lower() in ("http_proxy", "all_proxy") for name in environment):
        for name in ("no_proxy", "NO_PROXY"):
            others = environment.get(name, "")
            variables[name] = f"{LOOPBACK},{others}" if others else LOOPBACK
    return variables
