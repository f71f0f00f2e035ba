"""The key guard in a real vLLM server: every route it has, with every method, without the key.

The fixture `endpoint` is a running server that was started with the guard.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.engine]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPEN = {("GET", "/health"), ("HEAD", "/health")}
FEWEST_ROUTES = 20
WRONG = "hv-not-the-key"
# Ways to write a path that a careless guard takes for /health, or takes /health for.
TRICKS = (
    "//health",
    "/health/",
    "/health//",
    "/./health",
    "/v1/../health",
    "/%68ealth",
    "/health%2f",
    "/health%00",
    "/health;x",
    "/health;/../v1/models",
    "/health/../v1/models",
    "/health/..%2fv1/models",
    "/health%2f..%2fv1%2fmodels",
    "/HEALTH",
    "/Health",
    "/health\\..\\v1\\models",
    "/v1/models#/health",
    "/v1/models;/health",
    "/v1/models?path=/health",
    "//v1/models",
    "/v1//models",
    "/V1/MODELS",
    "/v1/models/",
    "/%76%31/models",
    "/metrics/",
    "/metrics/health",
    "http://127.0.0.1/v1/models",
    "http://127.0.0.1/health/",
    "http://127.0.0.1//health",
    "http://health/v1/models",
    "*",
)


class Endpoint(Protocol):
    """What the fixture gives."""

    url: str
    key: str
    model: str

    def log_text(self) -> str: ...


def exchange(
    endpoint: Endpoint, method: str, target: str, *headers: str, body: bytes = b""
) -> tuple[int, str]:
    """Send a request exactly as written, and return the status and all that came back."""
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {urlsplit(endpoint.url).netloc}",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    if not any(header.lower().startswith("connection:") for header in headers):
        lines.append("Connection: close")
    text = send(endpoint, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return int(text.split(" ", 2)[1]), text


def send(endpoint: Endpoint, request: bytes) -> str:
    """Send bytes, and return what comes back until the server closes or changes protocol."""
    address = urlsplit(endpoint.url)
    assert address.hostname
    answer = b""
    with socket.create_connection((address.hostname, address.port or 80), timeout=30) as line:
        line.sendall(request)
        while block := line.recv(65536):
            answer += block
            if answer.startswith(b"HTTP/1.1 101"):
                break
    return answer.decode(errors="replace")


def status(endpoint: Endpoint, method: str, target: str, *headers: str, body: bytes = b"") -> int:
    return exchange(endpoint, method, target, *headers, body=body)[0]


def routes(log: str) -> list[str]:
    """Every path in the engine's own list, with something in place of its parameters."""
    found = re.findall(r"Route: (\S+), (?:Methods|Endpoint): ", log)
    return sorted({re.sub(r"\{[^}]*\}", "x", path) for path in found})


def chat_body(endpoint: Endpoint) -> bytes:
    messages = [{"role": "user", "content": "hello"}]
    return json.dumps({"model": endpoint.model, "messages": messages, "max_tokens": 2}).encode()


@pytest.mark.parametrize(
    "headers", [(), (f"Authorization: Bearer {WRONG}",), (f"x-api-key: {WRONG}",)]
)
def test_every_route_with_every_method(endpoint: Endpoint, headers: tuple[str, ...]) -> None:
    paths = [*routes(endpoint.log_text()), "/", "/no-such-route"]
    assert len(paths) > FEWEST_ROUTES
    assert "/invocations" in paths
    answers = {
        (method, path): status(endpoint, method, path, *headers)
        for path in paths
        for method in METHODS
    }
    wrong = {request: code for request, code in answers.items() if code != 401}
    assert {request for request in wrong if request not in OPEN} == set()
    assert answers["GET", "/health"] == 200
    assert answers["HEAD", "/health"] in (200, 405)


@pytest.mark.parametrize("target", TRICKS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_spelling_opens_another_door(endpoint: Endpoint, method: str, target: str) -> None:
    assert status(endpoint, method, target) in (400, 401)


def test_an_absolute_address_of_health_opens_health_only(endpoint: Endpoint) -> None:
    code, text = exchange(endpoint, "GET", f"{endpoint.url}/health")
    assert code == 200
    assert text.partition("\r\n\r\n")[2] == ""


@pytest.mark.parametrize("path", ["/v1/realtime", "/health", "/v1/models", "/"])
def test_a_websocket_is_refused(endpoint: Endpoint, path: str) -> None:
    upgrade = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status(endpoint, "GET", path, *upgrade) == 403


def test_a_second_request_on_the_same_connection_is_guarded_too(endpoint: Endpoint) -> None:
    first = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    second = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answers = re.findall(r"^HTTP/1.1 (\d+)", send(endpoint, first + second), re.MULTILINE)
    assert answers == ["200", "401"]


def test_a_preflight_request_is_refused(endpoint: Endpoint) -> None:
    headers = ("Origin: http://example.org", "Access-Control-Request-Method: POST")
    code, text = exchange(endpoint, "OPTIONS", "/v1/chat/completions", *headers)
    assert code == 401
    assert "access-control-allow-origin" not in text.lower()


@pytest.mark.parametrize(
    "header",
    [
        "Authorization: Bearer {}",
        "authorization: bearer {}",
        "AUTHORIZATION: BEARER {}",
        "X-Api-Key: {}",
    ],
)
def test_the_key_opens(endpoint: Endpoint, header: str) -> None:
    shown = header.format(endpoint.key)
    assert status(endpoint, "GET", "/v1/models", shown) == 200
    assert status(endpoint, "GET", "/metrics", shown) == 200
    json_body = (shown, "Content-Type: application/json")
    body = chat_body(endpoint)
    assert status(endpoint, "POST", "/v1/chat/completions", *json_body, body=body) == 200
    assert status(endpoint, "POST", "/invocations", *json_body, body=body) == 200
    assert (
        status(endpoint, "POST", "/invocations", "Content-Type: application/json", body=body) == 401
    )


def test_two_authorization_headers_are_refused(endpoint: Endpoint) -> None:
    right, wrong = f"Authorization: Bearer {endpoint.key}", f"Authorization: Bearer {WRONG}"
    for headers in ((right, wrong), (wrong, right), (right, right)):
        assert status(endpoint, "GET", "/v1/models", *headers) == 401


def test_the_refusal_is_one_that_clients_can_read(endpoint: Endpoint) -> None:
    _, text = exchange(endpoint, "GET", "/v1/models", f"Authorization: Bearer {WRONG}")
    head, _, body = text.partition("\r\n\r\n")
    assert "www-authenticate: bearer" in head.lower()
    assert json.loads(body)["error"]["code"] == "invalid_api_key"
    assert WRONG not in text


def test_the_key_stands_in_no_log_and_no_process_listing(endpoint: Endpoint) -> None:
    assert endpoint.key not in endpoint.log_text()
    lines = list(command_lines())
    assert lines
    assert not [line for line in lines if endpoint.key.encode() in line]


def command_lines() -> Iterator[bytes]:
    """The command lines of all processes that this user may see."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()
