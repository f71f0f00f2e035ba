"""The key guard of a vLLM server, driven by hand as an ASGI server would."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import itertools
import json
import sys
from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcvlm.engines import vllm_guard
from hpcvlm.engines.vllm_guard import KEY_FILE, KeyGuard, Message, Receive, Send

KEY = "hv-0123456789abcdef"
BEARER = (b"authorization", f"Bearer {KEY}".encode())
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get")

Header = tuple[bytes, bytes]


class Inner:
    """The server behind the guard: remembers what reached it, answers 200."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        del receive
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"inside"})


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o600)
    monkeypatch.setenv(KEY_FILE, str(path))
    return path


@pytest.fixture
def inner(key_file: Path) -> Inner:
    return Inner()


def scope_of(method: str, path: str, *headers: Header, raw: str | None = None) -> Message:
    raw_path = (path if raw is None else raw).encode()
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": raw_path,
        "query_string": b"",
        "headers": list(headers),
    }


def drive(inner: Inner, scope: Message) -> list[Message]:
    sent: list[Message] = []

    def never() -> Awaitable[Message]:
        raise AssertionError("a refusal must not read the request's body")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(KeyGuard(inner)(scope, never, send))
    return sent


def status(inner: Inner, scope: Message) -> int:
    return int(drive(inner, scope)[0]["status"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/invocations", "/docs", "*", ""])
def test_every_path_and_method_needs_the_key(inner: Inner, method: str, path: str) -> None:
    assert status(inner, scope_of(method, path)) == 401
    assert status(inner, scope_of(method, path, (b"authorization", b"Bearer wrong"))) == 401
    assert inner.scopes == []
    assert status(inner, scope_of(method, path, BEARER)) == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_health_is_open(inner: Inner, method: str) -> None:
    assert status(inner, scope_of(method, "/health")) == 200


def test_health_is_open_when_the_server_gives_no_raw_path(inner: Inner) -> None:
    scope = scope_of("GET", "/health")
    del scope["raw_path"]
    assert status(inner, scope) == 200
    scope["raw_path"] = None
    assert status(inner, scope) == 200


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("GET", "HEAD")])
def test_health_is_open_for_reading_only(inner: Inner, method: str) -> None:
    assert status(inner, scope_of(method, "/health")) == 401


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/health/", None),
        ("//health", None),
        ("/Health", None),
        ("/HEALTH", None),
        ("/v1/../health", None),
        ("/./health", None),
        ("/health;x", None),
        ("/health", "/%68ealth"),
        ("/health", "/health%00"),
        ("/health\x00", None),
        ("/health/../v1/models", None),
        ("/v1/models", "/health"),
        ("/healthz", None),
        ("health", None),
    ],
)
def test_nothing_that_resembles_health_is_open(inner: Inner, path: str, raw: str | None) -> None:
    assert status(inner, scope_of("GET", path, raw=raw)) == 401


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", f"bearer {KEY}".encode())],
        [(b"Authorization", f"BEARER {KEY}".encode())],
        [(b"authorization", f"Bearer  {KEY} ".encode())],
        [(b"x-api-key", KEY.encode())],
        [(b"X-Api-Key", KEY.encode())],
        [(b"authorization", b"Bearer unused"), (b"x-api-key", KEY.encode())],
    ],
)
def test_the_key_is_taken_in_either_header(inner: Inner, headers: list[Header]) -> None:
    assert status(inner, scope_of("POST", "/v1/messages", *headers)) == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}x".encode())],
        [(b"authorization", f"Bearer {KEY[:-1]}".encode())],
        [(b"authorization", f"Bearer {KEY.upper()}".encode())],
        [(b"authorization", f"Bearer {KEY}, Bearer x".encode())],
        [(b"authorization", "Bearer \u00e9".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"wrong")],
        [(b"x-api-key", f"Bearer {KEY}".encode())],
        [(b"cookie", f"key={KEY}".encode())],
        [(b"proxy-authorization", f"Bearer {KEY}".encode())],
        [BEARER, BEARER],
        [BEARER, (b"authorization", b"Bearer wrong")],
        [BEARER, (b"Authorization", b"")],
        [(b"x-api-key", KEY.encode()), (b"x-api-key", KEY.encode())],
        [BEARER, BEARER, (b"x-api-key", KEY.encode())],
    ],
)
def test_anything_else_is_refused(inner: Inner, headers: list[Header]) -> None:
    assert status(inner, scope_of("POST", "/v1/chat/completions", *headers)) == 401
    assert inner.scopes == []


def test_a_key_in_the_query_is_refused(inner: Inner) -> None:
    scope = scope_of("GET", "/v1/models")
    scope["query_string"] = f"key={KEY}&api_key={KEY}".encode()
    assert status(inner, scope) == 401


def test_a_preflight_request_is_refused(inner: Inner) -> None:
    preflight = ((b"origin", b"http://x"), (b"access-control-request-method", b"POST"))
    assert status(inner, scope_of("OPTIONS", "/v1/chat/completions", *preflight)) == 401


def test_the_refusal_has_openais_shape_and_no_key(inner: Inner) -> None:
    start, body = drive(inner, scope_of("GET", "/v1/models", (b"authorization", b"Bearer guess")))
    headers = dict(start["headers"])
    assert headers[b"www-authenticate"] == b"Bearer"
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Authorization: Bearer KEY" in error["message"]
    assert KEY.encode() not in body["body"]
    assert b"guess" not in body["body"]


def test_a_websocket_without_the_key_is_closed_before_it_is_accepted(inner: Inner) -> None:
    scope: Message = {"type": "websocket", "path": "/health", "headers": []}
    assert drive(inner, scope) == [{"type": "websocket.close", "code": 1008}]
    assert inner.scopes == []


def test_a_websocket_with_the_key_passes(inner: Inner) -> None:
    drive(inner, {"type": "websocket", "path": "/v1/realtime", "headers": [BEARER]})
    assert [scope["path"] for scope in inner.scopes] == ["/v1/realtime"]


def test_the_lifespan_passes(inner: Inner) -> None:
    assert drive(inner, {"type": "lifespan"}) == []
    assert inner.scopes == [{"type": "lifespan"}]


def test_an_unknown_sort_of_scope_does_not_pass(inner: Inner) -> None:
    drive(inner, {"type": "webtransport", "path": "/health", "headers": []})
    assert inner.scopes == []


def test_the_request_passes_unchanged(inner: Inner) -> None:
    scope = scope_of("POST", "/v1/chat/completions", BEARER)
    drive(inner, scope)
    assert inner.scopes[0] is scope


def test_no_key_file_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_FILE, raising=False)
    with pytest.raises(RuntimeError, match="HPCVLM_KEY_FILE is not set"):
        KeyGuard(Inner())


def test_the_key_file_is_missing(key_file: Path) -> None:
    key_file.unlink()
    with pytest.raises(RuntimeError, match="cannot be read: No such file") as caught:
        KeyGuard(Inner())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_may_touch_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(RuntimeError, match="0600"):
        KeyGuard(Inner())


@pytest.mark.parametrize(
    "text", ["", "\n", "  \n", "two words", "two\nlines\n", "k\u00e9y", "a\x00b"]
)
def test_a_file_without_one_usable_key_is_refused(key_file: Path, text: str) -> None:
    key_file.write_text(text)
    with pytest.raises(RuntimeError, match="one key of printable ASCII") as caught:
        KeyGuard(Inner())
    assert not text.strip() or text.strip() not in str(caught.value)


def test_a_folder_is_no_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_FILE, str(tmp_path))
    with pytest.raises(RuntimeError, match="cannot be read"):
        KeyGuard(Inner())


def test_the_key_does_not_show_in_a_representation(key_file: Path) -> None:
    assert KEY not in repr(KeyGuard(Inner()))


# ---- while it runs: another key, draining -----------------------------------------------------


@pytest.fixture
def payloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the guard lies in, and a clock that goes 10 s at every look."""
    folder = tmp_path / "payloads"
    folder.mkdir()
    monkeypatch.setattr(vllm_guard, "__file__", str(folder / "hpcvlm_guard.py"))
    ticks = itertools.count(0.0, 10.0)
    monkeypatch.setattr(vllm_guard, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    return folder


def ask(guard: KeyGuard, method: str, path: str, *headers: Header) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(scope_of(method, path, *headers), receive, send))
    return sent


def bearer(key: str) -> Header:
    return (b"authorization", f"Bearer {key}".encode())


@pytest.fixture(params=["the key file", "beside the guard"])
def new_key_file(request: pytest.FixtureRequest, key_file: Path, payloads: Path) -> Path:
    return key_file if request.param == "the key file" else payloads / "key"


def put(path: Path, text: str, mode: int = 0o600) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def test_a_new_key_replaces_the_old_one(key_file: Path, new_key_file: Path) -> None:
    guard = KeyGuard(Inner())
    for key in ("hv-second", "hv-third!"):
        put(new_key_file, f"{key}\n")
        assert ask(guard, "GET", "/v1/models", bearer(key))[0]["status"] == 200
        assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 401
    assert key_file.exists()


@pytest.mark.parametrize(
    ("text", "mode"), [("", 0o600), ("two words", 0o600), ("hv-open", 0o644), ("hv-open", 0o640)]
)
def test_a_new_key_that_is_none_leaves_the_old_one(
    payloads: Path, new_key_file: Path, text: str, mode: int
) -> None:
    del payloads
    guard = KeyGuard(Inner())
    put(new_key_file, text, mode)
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 200
    assert ask(guard, "GET", "/v1/models", bearer(text or "x"))[0]["status"] == 401


def test_a_key_file_that_is_gone_leaves_the_key(key_file: Path, payloads: Path) -> None:
    del payloads
    guard = KeyGuard(Inner())
    key_file.unlink()
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 200
    put(key_file, "hv-second")
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 401
    assert ask(guard, "GET", "/v1/models", bearer("hv-second"))[0]["status"] == 200


def test_files_are_looked_at_seldom(
    key_file: Path, payloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_guard, "time", SimpleNamespace(monotonic=lambda: 5.0))
    guard = KeyGuard(Inner())
    put(key_file, "hv-second")
    (payloads / "draining").write_text("refuse\n")
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 200
    monkeypatch.setattr(vllm_guard, "time", SimpleNamespace(monotonic=lambda: 5.3))
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 503
    monkeypatch.setattr(vllm_guard, "time", SimpleNamespace(monotonic=lambda: 6.0))
    assert ask(guard, "GET", "/v1/models", BEARER)[0]["status"] == 401


def test_a_draining_server_closes_its_connections(key_file: Path, payloads: Path) -> None:
    del key_file
    guard = KeyGuard(Inner())
    assert ask(guard, "POST", "/v1/chat/completions", BEARER)[0]["headers"] == []
    (payloads / "draining").write_text("grace\n")
    for method, path in (("POST", "/v1/chat/completions"), ("GET", "/metrics")):
        start = ask(guard, method, path, BEARER)[0]
        assert start["status"] == 200
        assert (b"connection", b"close") in start["headers"]
    (payloads / "draining").unlink()
    assert ask(guard, "POST", "/v1/chat/completions", BEARER)[0]["headers"] == []


def test_a_draining_server_refuses_what_is_new(key_file: Path, payloads: Path) -> None:
    del key_file
    inner = Inner()
    guard = KeyGuard(inner)
    (payloads / "draining").write_text("refuse\n")
    start, body = ask(guard, "POST", "/v1/chat/completions", BEARER)
    headers = dict(start["headers"])
    assert start["status"] == 503
    assert (headers[b"retry-after"], headers[b"connection"]) == (b"1", b"close")
    assert int(headers[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert inner.scopes == []
    # Who has no key learns nothing; health and metrics are the job's own.
    assert ask(guard, "POST", "/v1/chat/completions")[0]["status"] == 401
    assert ask(guard, "GET", "/metrics")[0]["status"] == 401
    assert ask(guard, "GET", "/metrics", BEARER)[0]["status"] == 200
    assert ask(guard, "GET", "/health")[0]["status"] == 200
    assert ask(guard, "POST", "/metrics", BEARER)[0]["status"] == 503


def test_metrics_tell_how_many_requests_are_in_flight(key_file: Path, payloads: Path) -> None:
    del key_file, payloads
    counts: list[bytes] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/chat/completions":
            await count(receive)
            if scope["method"] == "PUT":
                raise ConnectionResetError
        headers = [(b"x-hpcvlm-in-flight", b"99"), (b"x-other", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def count(receive: Receive) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                assert (b"x-other", b"1") in message["headers"]
                found = [v for k, v in message["headers"] if k == b"x-hpcvlm-in-flight"]
                counts.extend(found)

        await guard(scope_of("GET", "/metrics", BEARER), receive, send)

    guard = KeyGuard(app)
    ask(guard, "POST", "/v1/chat/completions", BEARER)
    with pytest.raises(ConnectionResetError):
        ask(guard, "PUT", "/v1/chat/completions", BEARER)
    headers = ask(guard, "GET", "/metrics", BEARER)[0]["headers"]
    assert counts == [b"1", b"1"]
    assert [v for k, v in headers if k == b"x-hpcvlm-in-flight"] == [b"0"]


def test_a_websocket_is_told_to_try_again_while_the_server_drains(
    key_file: Path, payloads: Path
) -> None:
    del key_file
    guard = KeyGuard(Inner())
    (payloads / "draining").write_text("refuse\n")
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError

    scope: Message = {"type": "websocket", "path": "/v1/realtime", "headers": [BEARER]}
    asyncio.run(guard(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1013}]


def load_as_the_server_does() -> None:
    """As `--middleware hpcvlm_guard.KeyGuard` does: the same file under its own name."""
    spec = importlib.util.spec_from_file_location("hpcvlm_guard", vllm_guard.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_import_fails_when_there_is_no_lock(key_file: Path) -> None:
    load_as_the_server_does()
    key_file.chmod(0o644)
    with pytest.raises(RuntimeError, match="0600"):
        load_as_the_server_does()


def test_it_needs_nothing_but_the_standard_library() -> None:
    text = Path(vllm_guard.__file__).read_text()
    ast.parse(text, feature_version=(3, 9))
    lines = text.splitlines()
    modules = {
        line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))
    }
    assert modules <= set(sys.stdlib_module_names)
