"""Questions of the Python API: pictures, addresses that change, refusals, the openai package."""

from __future__ import annotations

import importlib.util
import io
import json
import platform
import socket
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import hpcvlm
from hpcvlm.endpoints.endpoint import Endpoint as Address
from hpcvlm.ops import api_client
from hpcvlm.ops.api_client import picture_url
from hpcvlm.ops.api_way import Way
from hpcvlm.ops.context import Context
from hpcvlm.system.settings import Settings
from tests.job_records import NOW, record, said

KEY = "k" * 43
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(Settings(tmp_path / "state", tmp_path / "c", tmp_path / "s"), {})


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    by_path = picture_url(path)
    assert by_path.startswith("data:image/png;base64,iVBOR")
    assert picture_url(str(path)) == picture_url(PNG) == by_path
    assert picture_url(Image.new("RGB", (4, 4), "red")).startswith("data:image/png;base64,")
    for address in ("https://x/y.png", "data:image/png;base64,AA", "file:///data/a.png"):
        assert picture_url(address) == address
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, format="WEBP")
    assert picture_url(stream.getvalue()).startswith("data:image/webp;")
    assert picture_url(b"\xff\xd8\xff\xe0").startswith("data:image/jpeg;")


@pytest.mark.parametrize("wrong", [b"text", "/no/such.png", 7])
def test_what_is_no_picture_is_refused(wrong: Any) -> None:
    with pytest.raises(hpcvlm.HpcvlmError) as error:
        picture_url(wrong)
    assert error.value.code == "image-unreadable"


Reply = tuple[int, object, dict[str, str]]


class Engine(ThreadingHTTPServer):
    """Answers as it is told; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, answers: list[Reply]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)


class SocketEngine(Engine):
    """The same on a Unix socket."""

    address_family = socket.AF_UNIX

    def __init__(self, path: Path, answers: list[Reply]) -> None:
        self.answers, self.asked, self.keys = answers, [], []
        super(ThreadingHTTPServer, self).__init__(str(path), Handler)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = self.socket.accept()
        return connection, ("local", 0)


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        self.server.keys.append(self.headers["Authorization"])
        status, said, headers = self.server.answers.pop(0)
        payload = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)


@contextmanager
def serving(engine: Engine) -> Iterator[Engine]:
    thread = threading.Thread(target=engine.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield engine
    finally:
        engine.shutdown()
        thread.join()
        engine.server_close()


def ok(text: str) -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}, {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_client, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(api_client, "_LONGEST_PAUSE_S", 0.02)


def address_of(engine: Engine) -> Address:
    return Address("e", "qwen", f"http://127.0.0.1:{engine.server_port}", "/none", None)


def endpoint_at(
    monkeypatch: pytest.MonkeyPatch, context: Context, *addresses: Address
) -> hpcvlm.Endpoint:
    """An endpoint that is found at one address after the other."""
    left = list(addresses)

    def reach(*, again: bool = False) -> tuple[Address, str]:
        if again and len(left) > 1:
            left.pop(0)
        return left[0], KEY

    endpoint = hpcvlm.launch("m", start=False, context=context)
    monkeypatch.setattr(endpoint, "_reach", reach)
    return endpoint


def test_a_question_with_pictures(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    with serving(Engine([ok("a red circle"), ok("two"), ok("hello")])) as engine:
        endpoint = endpoint_at(monkeypatch, context, address_of(engine))
        assert endpoint.ask("What?", PNG, max_tokens=9, seed=1) == "a red circle"
        assert endpoint.ask("How many?", image=[PNG, "https://x/y.png"]) == "two"
        assert endpoint.ask("Hi") == "hello"
    first, second, third = engine.asked
    assert (first["model"], first["max_tokens"], first["seed"]) == ("qwen", 9, 1)
    kinds = [[part["type"] for part in asked["messages"][0]["content"]] for asked in engine.asked]
    assert kinds == [["image_url", "text"], ["image_url", "image_url", "text"], ["text"]]
    assert second["messages"][0]["content"][1]["image_url"]["url"] == "https://x/y.png"
    assert third["messages"][0]["content"][0]["text"] == "Hi"
    assert set(engine.keys) == {f"Bearer {KEY}"}


def test_proxies_of_the_environment_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(Engine([ok("direct")])) as engine:
        assert endpoint_at(monkeypatch, context, address_of(engine)).ask("?") == "direct"


@pytest.mark.usefixtures("quick")
def test_an_endpoint_that_moves_is_asked_again_where_it_is_then(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    gone = Address("e", "qwen", "http://127.0.0.1:9", "/none", None)
    draining = (503, {"error": {"message": "draining"}}, {"Retry-After": "1"})
    with serving(Engine([draining])) as old, serving(Engine([ok("here")])) as new:
        endpoint = endpoint_at(monkeypatch, context, address_of(old), gone, address_of(new))
        assert endpoint.ask("?") == "here"


@pytest.mark.usefixtures("quick")
def test_what_stays_away_is_told_after_a_while(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    gone = Address("e", "qwen", "http://127.0.0.1:9", "/none", None)
    with pytest.raises(hpcvlm.HpcvlmError, match="e cannot be reached") as error:
        endpoint_at(monkeypatch, context, gone).ask("?")
    assert (error.value.code, error.value.remedy) == ("request-failed", "hpcvlm status e")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ((400, {"error": {"message": f"too long {KEY}"}}, {}), "request-refused", "too long ***"),
        ((401, {"error": "Unauthorized"}, {}), "request-refused", "Unauthorized"),
        ((500, "oops", {}), "request-refused", "answered 500: oops"),
        ((200, "<html>", {}), "request-failed", "something else"),
        ((200, {"choices": []}, {}), "request-failed", "something else"),
    ],
)
def test_refusals_have_the_engine_s_words_and_never_the_key(
    monkeypatch: pytest.MonkeyPatch,
    context: Context,
    answer: Reply,
    code: str,
    words: str,
) -> None:
    with serving(Engine([answer])) as engine:
        endpoint = endpoint_at(monkeypatch, context, address_of(engine))
        with pytest.raises(hpcvlm.HpcvlmError) as error:
            endpoint.ask("?")
    assert error.value.code == code
    assert words in error.value.sentence
    assert KEY not in str(error.value)


def test_a_unix_socket_is_asked_like_an_address(
    monkeypatch: pytest.MonkeyPatch, context: Context, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with serving(SocketEngine(path, [ok("by socket")])):
        address = Address("e", "qwen", "http://localhost", "/none", None, socket=str(path))
        assert endpoint_at(monkeypatch, context, address).ask("?") == "by socket"


# ---- the openai package


def test_without_the_openai_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    gone = Address("e", "qwen", "http://127.0.0.1:9", "/none", None)
    endpoint = endpoint_at(monkeypatch, context, gone)
    for make in (endpoint.client, endpoint.async_client):
        with pytest.raises(hpcvlm.HpcvlmError, match="openai") as error:
            make()
        assert error.value.code == "package-missing"
        assert "pip install openai" in error.value.remedy


def test_clients_of_the_openai_package(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    made: dict[str, dict[str, Any]] = {}
    package = types.ModuleType("openai")
    for name in ("OpenAI", "AsyncOpenAI", "DefaultHttpxClient", "DefaultAsyncHttpxClient"):
        setattr(package, name, lambda _name=name, **options: made.setdefault(_name, options))
    monkeypatch.setitem(sys.modules, "openai", package)
    address = Address("e", "qwen", "http://n1:8000", "/none", None)
    endpoint = endpoint_at(monkeypatch, context, address)
    endpoint.client(max_retries=5)
    endpoint.async_client()
    assert made["OpenAI"]["base_url"] == "http://n1:8000/v1"
    assert (made["OpenAI"]["api_key"], made["OpenAI"]["max_retries"]) == (KEY, 5)
    assert made["DefaultHttpxClient"] == {"trust_env": False}
    assert made["AsyncOpenAI"]["http_client"] is made["DefaultAsyncHttpxClient"]


@pytest.mark.skipif(
    importlib.util.find_spec("openai") is None, reason="the openai package is not installed"
)
def test_the_real_openai_package(monkeypatch: pytest.MonkeyPatch, context: Context) -> None:
    with serving(Engine([ok("a red circle")])) as engine:
        client = endpoint_at(monkeypatch, context, address_of(engine)).client()
        answer = client.chat.completions.create(
            model="qwen", messages=[{"role": "user", "content": "?"}]
        )
        client.close()
    assert answer.choices[0].message.content == "a red circle"


# ---- the way there


def way(context: Context, *addresses: Address) -> Way:
    left = list(addresses)
    return Way(context, lambda: left.pop(0))


def serving_job(tmp_path: Path, name: str, phase: str = "ready", **over: Any) -> Address:
    made = record(tmp_path, name)
    said(made, phase, NOW, NOW)
    key = str(Path(made.folder) / "key")
    values = {"name": "e", "model": "m", "url": f"http://{name}:1", "key_file": key, "ends": None}
    return Address(**{**values, **over})


def test_an_address_counts_as_long_as_its_job_serves(tmp_path: Path, context: Context) -> None:
    first, second = serving_job(tmp_path, "e"), serving_job(tmp_path, "e~2")
    found = way(context, first, second)
    assert [found.find("e").url for _ in range(3)] == ["http://e:1"] * 3
    serving_job(tmp_path, "e", phase="draining")
    assert found.find("e").url == "http://e~2:1"
    assert found.is_known


def test_what_listens_for_its_node_alone_is_relayed(
    tmp_path: Path, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    @contextmanager
    def connected(request: Any, _ctx: Context) -> Iterator[Any]:
        opened.append(request.name)
        yield types.SimpleNamespace(url="http://127.0.0.1:18000")
        opened.append("closed")

    monkeypatch.setattr("hpcvlm.ops.connect.connected", connected)
    here = platform.node()
    at_socket = serving_job(tmp_path, "s", socket="/tmp/s", listen="socket", host=here)
    at_loopback = serving_job(tmp_path, "l", listen="loopback", host="elsewhere")
    found = way(context, at_socket, at_loopback)
    assert found.find("e") == at_socket
    assert found.find("e", for_any_client=True).url == "http://127.0.0.1:18000"
    found.learn(None)
    relayed = found.find("e")
    assert (relayed.url, relayed.socket) == ("http://127.0.0.1:18000", None)
    assert opened == ["e"]
    found.close()
    found.close()
    assert opened == ["e", "closed"]
