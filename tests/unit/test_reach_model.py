"""Which way leads where, what a login node may say, and what never reaches a shell."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach import ssh
from hpcvlm.reach.folder import ports_for
from hpcvlm.reach.model import (
    Kind,
    Route,
    Via,
    check_destination,
    check_wanted,
    find_route,
    parse_status,
)
from tests.reach_fixtures import where

HERE, LOGIN = Via(), Via(login="me@login")
SOCKET: dict[str, Any] = {"listen": "socket", "socket": "/tmp/e/s.sock", "port": None}
ROUTES: list[tuple[dict[str, Any], Via, str, Route]] = [
    ({}, HERE, "login1", Route(Kind.TCP, "node07:8000")),
    ({}, HERE, "node07", Route(Kind.TCP, "127.0.0.1:8000")),
    ({"host": "node07.cluster"}, HERE, "node07", Route(Kind.TCP, "127.0.0.1:8000")),
    ({"host": "fd00::7"}, HERE, "login1", Route(Kind.TCP, "[fd00::7]:8000")),
    ({"listen": "loopback"}, HERE, "node07", Route(Kind.TCP, "127.0.0.1:8000")),
    ({"listen": "loopback"}, HERE, "login1", Route(Kind.NODE, "127.0.0.1:8000", "node07")),
    (SOCKET, HERE, "node07", Route(Kind.SOCKET, "/tmp/e/s.sock")),
    (SOCKET, HERE, "login1", Route(Kind.NODE, "/tmp/e/s.sock", "node07")),
    ({}, LOGIN, "laptop", Route(Kind.LOGIN, "node07:8000")),
    # A laptop that happens to have the node's name is not the node.
    ({}, LOGIN, "node07", Route(Kind.LOGIN, "node07:8000")),
    ({"listen": "loopback"}, LOGIN, "laptop", Route(Kind.NODE, "127.0.0.1:8000", "node07")),
    (SOCKET, LOGIN, "laptop", Route(Kind.NODE, "/tmp/e/s.sock", "node07")),
    (
        {"executor": "local", "listen": "loopback", "host": "login1"},
        LOGIN,
        "laptop",
        Route(Kind.LOGIN, "127.0.0.1:8000"),
    ),
]


@pytest.mark.parametrize(("over", "via", "here", "route"), ROUTES)
def test_the_way_to_each_kind_of_endpoint(
    over: dict[str, Any], via: Via, here: str, route: Route
) -> None:
    assert find_route(where(**over), via, here) == route


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "", "a b", "a;b", "$(x)", "a\nb"])
def test_a_host_that_is_none_never_becomes_an_argument(host: str) -> None:
    with pytest.raises(HpcvlmError, match="no host"):
        find_route(where(host=host), LOGIN, "laptop")


@pytest.mark.parametrize("path", ["/tmp/a:b", "/tmp/%h", "/tmp/${HOME}", "relative", "/tmp/a b"])
def test_a_socket_that_ssh_would_read_otherwise_is_refused(path: str) -> None:
    with pytest.raises(HpcvlmError, match="cannot be told the socket"):
        find_route(where(listen="socket", socket=path, port=None), LOGIN, "laptop")


STATUS = {
    "name": "mine",
    "job_name": "mine~2",
    "state": "ready",
    "description": "ready",
    "job_id": "41",
    "served_name": "tiny-vlm",
    "executor": "slurm",
    "url": "http://node07:8000/v1",
    "host": "node07",
    "socket": None,
    "key_file": "/state/jobs/mine/key",
    "ends": 1800000000.5,
    "kept_until": None,
}


def test_the_status_of_an_endpoint_is_read_behind_a_greeting() -> None:
    text = "Welcome {user}!\nLast login: never\n" + json.dumps(STATUS, indent=2) + "\n"
    seen = parse_status(text)
    assert seen.where == where("41", name="mine~2", ends=1800000000.5)
    loopback = parse_status(json.dumps({**STATUS, "url": "http://127.0.0.1:9/v1"})).where
    assert loopback is not None
    assert (loopback.listen, loopback.host, loopback.port) == ("loopback", "node07", 9)
    socket = parse_status(
        json.dumps({**STATUS, "url": "http://localhost/v1", "socket": "/tmp/s"})
    ).where
    assert socket is not None
    assert (socket.listen, socket.port, socket.socket) == ("socket", None, "/tmp/s")


@pytest.mark.parametrize(
    ("state", "over"),
    [("waiting", False), ("unknown", False), ("failed", True), ("ended", True)],
)
def test_an_endpoint_that_is_not_ready_is_nowhere(state: str, over: bool) -> None:
    seen = parse_status(json.dumps({"state": state, "description": "so"}))
    assert (seen.where, seen.described, seen.over) == (None, "so", over)


@given(st.text() | st.dictionaries(st.sampled_from(sorted(STATUS)), st.text()).map(json.dumps))
def test_whatever_a_login_node_says_is_a_sighting_or_an_error(text: str) -> None:
    try:
        parse_status(text)
    except HpcvlmError as error:
        assert error.code == "remote-output"


@given(st.text())
def test_no_destination_is_an_option_or_more_than_one_word(text: str) -> None:
    for option in ("--login", "--jump"):
        try:
            taken = check_destination(option, text)
        except HpcvlmError as error:
            assert error.code == "option-invalid"
        else:
            assert not taken.startswith("-")
            assert not set(taken) & set(" \t\n'\"$`;|&<>(){}*?!#\\\0")


@pytest.mark.parametrize("good", ["login", "me@login.site.org", "ssh://me@login:2222", "[fd::1]"])
def test_destinations_of_every_kind_are_taken(good: str) -> None:
    assert check_destination("--login", good) == good
    assert check_destination("--jump", f"{good},other") == f"{good},other"


@given(st.text())
def test_no_name_that_reaches_another_shell_means_anything_to_it(text: str) -> None:
    try:
        name = check_wanted(text)
    except HpcvlmError as error:
        assert error.code == "endpoint-unknown"
    else:
        assert shlex.quote(name) in (name, f"'{name}'")
        assert not name.startswith("-")


@pytest.mark.parametrize("name", ["qwen2.5-vl-7b-x3k9", "mine~2", "4711"])
def test_names_generations_and_job_ids_are_taken(name: str) -> None:
    assert check_wanted(name) == name


def test_what_ssh_is_configured_to_do_is_kept() -> None:
    text = "user bob\nidentityfile ~/.ssh/a\nidentityfile ~/.ssh/b\nserveraliveinterval 7\n"
    found = ssh.parse_configuration(text + "connecttimeout 3\nstricthostkeychecking true\n")
    assert found == ssh.Configured("bob", ("~/.ssh/a", "~/.ssh/b"), 7, True, False)
    hops = ssh.Hops(LOGIN, "/tmp/x/login")
    argv = " ".join(ssh.master(hops, found))
    assert "ServerAlive" not in argv
    assert "ConnectTimeout" not in argv
    plain = ssh.parse_configuration("user bob\nconnecttimeout none\nserveraliveinterval 0\n")
    argv = " ".join(ssh.master(hops, plain))
    assert "ServerAliveInterval=5" in argv
    assert "ConnectTimeout=15" in argv


def test_ssh_never_asks_where_nobody_can_answer() -> None:
    configured = ssh.parse_configuration("user bob\n")
    for may_ask, mode in ((False, "BatchMode=yes"), (True, "BatchMode=no")):
        hops = ssh.Hops(Via(login="l", may_ask=may_ask), "/tmp/c")
        assert mode in ssh.master(hops, configured)
    # What goes through the connection that is there never makes one of its own.
    for argv in (
        ssh.remote_command(hops, "true"),
        ssh.forward(hops, "forward", "/tmp/s", "n:1"),
    ):
        assert "ProxyCommand=false" in argv
        assert "BatchMode=yes" in argv


def test_a_jump_host_leads_to_the_login_node_alone() -> None:
    configured = ssh.parse_configuration("user bob\n")
    hops = ssh.Hops(Via(login="me@login", jump="gate,inner"), "/tmp/c")
    assert ssh.master(hops, configured)[-4:] == ["-J", "gate,inner", "--", "me@login"]
    to_node = ssh.to_node(
        hops, "node07", "/tmp/way1", "127.0.0.1:80", login=configured, to=configured
    )
    assert "-J" not in to_node
    assert to_node[-4:] == ["-L", "/tmp/way1:127.0.0.1:80", "--", "node07"]
    assert to_node[to_node.index("-l") + 1] == "bob"


@given(st.text(alphabet="abc %'\"$`\\;&", min_size=1).map(lambda text: "/tmp/" + text))
def test_the_proxy_command_means_the_control_socket_whatever_its_path(path: str) -> None:
    configured = ssh.parse_configuration("user bob\n")
    argv = ssh.to_node(
        ssh.Hops(LOGIN, path), "n", "/s", "127.0.0.1:1", login=configured, to=configured
    )
    command = next(word for word in argv if word.startswith("ProxyCommand="))
    # ssh expands %h, %p and %% in the command first, and expands %% in ControlPath after it.
    expanded = command.removeprefix("ProxyCommand=").replace("%h", "H").replace("%p", "P")
    words = shlex.split(expanded.replace("%%", "%"))
    control = next(word for word in words if word.startswith("ControlPath="))
    assert control.removeprefix("ControlPath=").replace("%%", "%") == path
    assert words[-4:] == ["-W", "[H]:P", "--", "me@login"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("Host key verification failed.", "not known here"),
        ("WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!", "another one than before"),
        ("me@n: Permission denied (publickey).", "did not let you in"),
        ("Access denied by pam_slurm_adopt: you have no active jobs on this node", "have a job"),
        ("ssh: Could not resolve hostname n: Name or service not known", "no machine is called"),
        ("channel 1: open failed: administratively prohibited: open failed", "no forwarding"),
        ("channel 2: open failed: connect failed: Connection refused", "connect to the engine"),
        ("ssh: connect to host n port 22: Connection timed out", "does not answer"),
        ("ssh: connect to host n port 22: Connection refused", "does not take the connection"),
        ("Timeout, server n not responding.", "does not answer"),
        ("kex_exchange_identification: something new", "ssh to n failed"),
    ],
)
def test_the_words_of_ssh_are_understood(words: str, says: str) -> None:
    trouble = ssh.explain(words, "n", LOGIN)
    assert says in trouble.sentence
    assert trouble.remedy


def test_the_port_of_a_name_is_its_own_and_none_that_the_kernel_hands_out() -> None:
    assert ports_for("mine") == ports_for("mine")
    assert ports_for("mine") != ports_for("other")
    assert all(1024 < port < 32768 for name in "abcdefgh" for port in ports_for(name))
