from __future__ import annotations

import socket

import httpx
import pytest

from hpcvlm.probe.picture_server import PictureServer, address_towards, is_loopback

PNG = b"\x89PNG\r\n\x1a\n and the rest"


def test_it_serves_one_picture_and_nothing_else() -> None:
    with PictureServer(PNG, "127.0.0.1").running() as server, httpx.Client(trust_env=False) as web:
        assert not server.fetched_from
        for path in ("/", "/x.png", "/../etc/passwd", "/%2e%2e/etc/passwd"):
            assert web.get(server.origin + path).status_code == 404
        assert web.head(server.url).headers["content-length"] == str(len(PNG))
        assert web.post(server.url).status_code == 501
        assert not server.fetched_from
        answer = web.get(server.url)
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
        assert server.fetched_from == ("127.0.0.1",)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_its_address_cannot_be_guessed() -> None:
    with PictureServer(PNG, "127.0.0.1").running() as one:
        with PictureServer(PNG, "127.0.0.1").running() as other:
            assert one.url.rpartition("/")[2] != other.url.rpartition("/")[2]
        assert len(one.url.rpartition("/")[2]) > 30
        assert one.url.startswith(f"{one.origin}/")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_serves_on_ipv6() -> None:
    try:
        server = PictureServer(PNG, "::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with server.running():
        assert server.origin.startswith("http://[::1]:")
        assert httpx.get(server.url, trust_env=False).content == PNG
        assert server.fetched_from == ("::1",)


def test_an_address_of_another_machine_cannot_be_listened_at() -> None:
    with pytest.raises(OSError, match="assign"):
        PictureServer(PNG, "203.0.113.1")


def test_the_address_towards_a_host() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    with pytest.raises(OSError, match=r"[Nn]ame|known|No address"):
        address_towards("no-such-node.invalid")


def test_what_is_a_loopback() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("127.4.5.6")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.5")
    assert not is_loopback("fe80::1%eth0")
