"""The key guard against every route of every engine version, and against paths that nobody has.

tests/data/vllm_routes.json has the routes (scripts/derive_vllm_routes.py); tests/engine asks a
real server over its socket.
"""

from __future__ import annotations

import ast
import hmac
import inspect
import json
import os
from collections.abc import Awaitable, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hpcvlm.engines import vllm_guard
from hpcvlm.engines.vllm_guard import KEY_FILE, KeyGuard, Message, Receive, Send
from hpcvlm.engines.vllm_versions import known_versions
from tests.command import ROOT

KEY = "hv-0123456789abcdef0123456789abcdef0123456789"
TABLE = json.loads((ROOT / "tests" / "data" / "vllm_routes.json").read_text())
VERSIONS: list[str] = TABLE["versions"]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
REFUSED = 401

Headers = list[tuple[bytes, bytes]]


class Server:
    """What is behind the guard."""

    def __init__(self) -> None:
        self.reached = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.reached = True
        await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.fixture(autouse=True)
def key_file(isolated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    monkeypatch.setenv(KEY_FILE, str(path))


@cache
def guard_of(key_file: str) -> KeyGuard:
    return KeyGuard(Server())


def gets_in(scope: Message) -> bool:
    """Whether a request reaches the server; if not, it must have been refused."""
    server, sent = Server(), []

    def never() -> Awaitable[Message]:
        raise AssertionError("a refusal must not read the request's body")

    async def send(message: Message) -> None:
        sent.append(message)

    guard = guard_of(os.environ[KEY_FILE])
    guard.app = server
    with pytest.raises(StopIteration):  # it waits for nothing, so that no loop is needed
        guard(scope, never, send).send(None)
    if not server.reached:
        first = sent[0]
        assert first["type"] == "websocket.close" or first["status"] == REFUSED
    return server.reached


def scope_of(
    method: str,
    path: str,
    headers: Sequence[tuple[bytes, bytes]] = (),
    raw: bytes | None = None,
    kind: str = "http",
) -> Message:
    return {
        "type": kind,
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass") if raw is None else raw,
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
    }


def routes_of(version: str) -> list[str]:
    index = VERSIONS.index(version)
    return [
        route
        for route, spans in TABLE["routes"].items()
        if any(first <= index <= last for first, last in spans)
    ]


def test_the_list_is_of_every_version_that_hpcvlm_knows() -> None:
    assert [str(version) for version in known_versions()] == VERSIONS
    for version in VERSIONS:
        routes = set(routes_of(version))
        assert len(routes) > 25, version
        assert {"/health", "/metrics", "/invocations", "/v1/chat/completions"} <= routes


def test_every_version_puts_the_guard_around_everything() -> None:
    """One place adds it, for every server; what is added last sees a request first."""
    assert all(":" in place for _, place in TABLE["middleware"])
    assert TABLE["outside"] == [[] for _ in VERSIONS]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_route_of_a_version_needs_the_key(version: str) -> None:
    for route in routes_of(version):
        for path in (route, f"{route}/", f"/{route}", f"{route}/x"):
            for method in METHODS:
                is_open = path == "/health" and method in ("GET", "HEAD")
                assert gets_in(scope_of(method, path)) == is_open, (method, path)
        right = [(b"authorization", f"Bearer {KEY}".encode())]
        assert gets_in(scope_of("POST", route, right))
        assert not gets_in(scope_of("GET", route, kind="websocket"))


paths = st.text(max_size=40) | st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            (
                *(
                    "/",
                    "//",
                    "health",
                    "/health",
                    "HEALTH",
                    "..",
                    "/..",
                    "/.",
                    ";",
                    "?",
                    "#",
                    "%2f",
                ),
                *(
                    "%68ealth",
                    "%2e%2e",
                    "%00",
                    "\0",
                    "\\",
                    "v1",
                    "/v1/models",
                    "http://x",
                    "*",
                    ":",
                ),
                *("/invocations", "metrics", " ", "\t", "\r\n", "\u2215", "\uff0f", "&", "=", "@"),
            )
        ),
        max_size=6,
    ),
)
header_names = st.sampled_from(
    (b"authorization", b"Authorization", b"AUTHORIZATION", b"x-api-key", b"X-Api-Key", b"cookie")
) | st.binary(max_size=12)
header_values = st.binary(max_size=60) | st.sampled_from(
    [
        form.format(value).encode()
        for form in (
            "Bearer {}",
            "bearer  {} ",
            "Basic {}",
            "{}",
            "Bearer {}, Bearer x",
            "Bearer\t{}",
        )
        for value in (KEY, KEY[:-1], KEY + "x", KEY.upper(), "", "wrong")
    ]
)


def shows_key(headers: Headers) -> bool:
    """What the rule says: one header of its kind, which holds the key."""
    bearers = [value for name, value in headers if name.lower() == b"authorization"]
    keys = [value for name, value in headers if name.lower() == b"x-api-key"]
    if len(bearers) > 1 or len(keys) > 1:
        return False
    shown = [v[7:].strip(b" ") for v in bearers if v[:7].lower() == b"bearer "]
    return KEY.encode() in [*shown, *keys]


@given(
    method=st.sampled_from(METHODS) | st.text(max_size=8),
    path=paths,
    raw=st.none() | paths.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(),
    headers=st.lists(st.tuples(header_names, header_values), max_size=4),
    kind=st.sampled_from(("http", "http", "websocket", "webtransport")),
)
@example("GET", "/health", b"/health/..%2fv1", [], "http")
@example("GET", "/health", b"/%68ealth", [], "http")
@example("POST", "/v1/models", None, [(b"x-api-key", KEY.encode())] * 2, "http")
@settings(deadline=None, max_examples=600)
def test_no_request_gets_in_but_with_the_key_or_to_health(
    method: str, path: str, raw: bytes | None, headers: Headers, kind: str
) -> None:
    scope = scope_of(method, path, headers, raw, kind)
    plain = kind == "http" and method in ("GET", "HEAD") and path == "/health"
    is_health = plain and scope["raw_path"] in (b"/health", b"")
    assert gets_in(scope) == (is_health or shows_key(headers))


@given(st.text(alphabet="".join(map(chr, range(33, 127))), min_size=1, max_size=60))
@settings(deadline=None)
def test_no_other_key_opens(guess: str) -> None:
    assume(guess != KEY)
    for headers in (
        [(b"authorization", f"Bearer {guess}".encode())],
        [(b"x-api-key", guess.encode())],
    ):
        assert not gets_in(scope_of("GET", "/v1/models", headers))


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hmac.compare_digest alone, on the whole of what was shown."""
    compared: list[tuple[bytes, bytes]] = []

    def noting(shown: bytes, key: bytes) -> bool:
        compared.append((shown, key))
        return hmac.compare_digest(shown, key)

    class Hmac:
        compare_digest = staticmethod(noting)

    monkeypatch.setattr(vllm_guard, "hmac", Hmac)
    for guess in ("x", KEY[:-1], KEY[:-1] + "x", KEY):
        compared.clear()
        shown = gets_in(scope_of("GET", "/", [(b"authorization", f"Bearer {guess}".encode())]))
        assert shown == (guess == KEY)
        assert compared == [(guess.encode(), KEY.encode())]


def test_nothing_else_in_the_guard_compares_a_key() -> None:
    tree = ast.parse(inspect.getsource(vllm_guard))
    compares = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    assert compares
    for node in compares:
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
        lengths = [
            call
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "len"
        ]
        assert lengths or not names & {"key", "_key", "shown", "candidate", "credentials"}, (
            ast.unparse(node)
        )


def test_the_guard_is_a_plain_file_of_the_standard_library() -> None:
    """What runs beside the engine can be read in a minute, and imports nothing that it ships."""
    text = Path(vllm_guard.__file__).read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "hpcvlm" not in imported
    assert len(text.splitlines()) < 300
