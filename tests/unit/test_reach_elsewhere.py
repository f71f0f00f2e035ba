"""An address that means somebody else's program on this machine is never handed out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpcvlm.endpoints.endpoint import (
    CLIENTS,
    Endpoint,
    exports,
    is_reachable_here,
    make_endpoint,
    snippet,
)
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.connect import Connection, client_variables
from hpcvlm.ops.context import Context
from hpcvlm.ops.smoke import target_of, way_to
from hpcvlm.submit.record import JobRecord
from tests.unit.test_endpoints import record

HERE = "login1"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: HERE)


def made(folder: Path, host: str, listen: str) -> tuple[JobRecord, Endpoint]:
    submitted = record(folder, "mine", listen=listen, loopback=listen == "loopback")
    (folder / "mine" / "key").write_text("k3y\n")
    (folder / "mine" / "key").chmod(0o600)
    socket = "/tmp/a b/engine" if listen == "socket" else None
    return submitted, make_endpoint(submitted, host, None if socket else 80, None, socket)


@pytest.mark.parametrize(
    ("host", "listen", "reachable"),
    [
        ("node07", "node", True),
        ("node07", "loopback", False),
        ("node07", "socket", False),
        (HERE, "loopback", True),
        (f"{HERE}.cluster.org", "socket", True),
    ],
)
def test_where_an_address_means_the_endpoint(
    tmp_path: Path, host: str, listen: str, reachable: bool
) -> None:
    _, endpoint = made(tmp_path, host, listen)
    assert endpoint.listen == listen
    assert is_reachable_here(endpoint) == reachable
    if reachable:
        assert "mine" in snippet(endpoint, "curl", "x.png")
        return
    for client in CLIENTS:
        with pytest.raises(HpcvlmError) as error:
            snippet(endpoint, client, "x.png")
        assert error.value.code == "endpoint-elsewhere"
    with pytest.raises(HpcvlmError) as error:
        exports(endpoint, "k3y")
    assert error.value.remedy == "hpcvlm connect mine"
    assert "of node07 alone" in error.value.sentence


def test_a_socket_is_in_no_variable_and_in_the_snippets_that_can_use_it(tmp_path: Path) -> None:
    _, endpoint = made(tmp_path, HERE, "socket")
    with pytest.raises(HpcvlmError, match="no variable"):
        exports(endpoint, "k3y")
    with pytest.raises(HpcvlmError, match="litellm cannot be told"):
        snippet(endpoint, "litellm", "x.png")
    for client in set(CLIENTS) - {"litellm", "curl"}:
        text = snippet(endpoint, client, "x.png")
        compile(text, client, "exec")
        assert "uds='/tmp/a b/engine'" in text
    curl = snippet(endpoint, "curl", "x.png")
    assert "--unix-socket '/tmp/a b/engine'" in curl
    subprocess.run(["bash", "-n", "-c", curl], check=True)


def test_the_smoke_test_of_a_socket_here_goes_through_it(tmp_path: Path) -> None:
    submitted, endpoint = made(tmp_path, HERE, "socket")
    with way_to(submitted, endpoint, Context()) as reachable:
        assert target_of(submitted, reachable).socket == Path("/tmp/a b/engine")


def test_the_smoke_test_opens_a_way_and_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    @contextmanager
    def connected(request: object, _ctx: Context) -> Iterator[Connection]:
        opened.append("open")
        yield Connection("mine", "m", 18123, "/k", "41", "node07", None)
        opened.append("closed")

    monkeypatch.setattr("hpcvlm.ops.connect.connected", connected)
    submitted, endpoint = made(tmp_path, "node07", "loopback")
    with way_to(submitted, endpoint, Context()) as reachable:
        target = target_of(submitted, reachable)
        assert (target.url, target.socket) == ("http://127.0.0.1:18123", None)
        assert not target.same_host
    assert opened == ["open", "closed"]


def test_without_a_way_it_says_where_to_run_the_smoke_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connected(request: object, _ctx: Context) -> None:
        raise HpcvlmError("ssh-refused", "node07 did not let you in", "", ("ssh: no",))

    monkeypatch.setattr("hpcvlm.ops.connect.connected", connected)
    submitted, endpoint = made(tmp_path, "node07", "socket")
    with pytest.raises(HpcvlmError) as error, way_to(submitted, endpoint, Context()):
        pass
    assert "node07 did not let you in" in error.value.sentence
    assert error.value.remedy == "srun --overlap --jobid 41 hpcvlm smoke-test mine"
    assert error.value.details == ("ssh: no",)


def test_clients_go_past_a_proxy_to_the_port_here() -> None:
    connection = Connection("mine", "m", 18123, "/k", "41", "node07", None)
    assert set(client_variables(connection, "k", {})) == {
        "OPENAI_BASE_URL",
        "OPENAI_API_KEY",
        "OPENAI_MODEL",
    }
    behind = client_variables(connection, "k", {"HTTP_PROXY": "http://p", "no_proxy": "a,b"})
    assert (behind["no_proxy"], behind["NO_PROXY"]) == ("127.0.0.1,a,b", "127.0.0.1")
