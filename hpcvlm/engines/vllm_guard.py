"""The door of a vLLM server: every path needs the job's key, except GET or HEAD /health.

vLLM's own --api-key leaves /metrics, /invocations, /tokenize and others open. A job writes this
file as ``hpcvlm_guard.py`` into its folder ``payloads``, puts that folder on PYTHONPATH and starts
the server with ``--middleware hpcvlm_guard.KeyGuard``. It runs inside the engine's container:
standard library only, Python 3.9 or newer, nothing from hpcvlm.

Beside itself it finds what the job tells it while it runs: ``key``, a key that replaces the first,
and ``draining``, whose first word is ``grace`` (clients are asked to come back by a new
connection) or ``refuse`` (new requests get 503).
"""

from __future__ import annotations

import hmac
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

KEY_FILE = "HPCVLM_KEY_FILE"
REFUSAL = {
    "error": {
        "message": "Missing or wrong API key: send the header 'Authorization: Bearer KEY'.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
}
BUSY = {
    "error": {
        "message": "This server is ending: send the request again.",
        "type": "service_unavailable",
        "param": None,
        "code": "draining",
    }
}
WEBSOCKET_POLICY_VIOLATION = 1008
WEBSOCKET_TRY_AGAIN_LATER = 1013
KEY_LOOK_S = 1.0
DRAINING_LOOK_S = 0.25
IN_FLIGHT = b"x-hpcvlm-in-flight"
VISIBLE_ASCII = bytes(range(ord("!"), ord("~") + 1))


def read_key(name: str = "") -> bytes:
    """The key in a file.

    Args:
        name: of the file; the one that HPCVLM_KEY_FILE names when it is empty.

    Raises:
        RuntimeError: there is no such file, others may read it, or it holds no usable key.
    """
    name = name or os.environ.get(KEY_FILE, "")
    if not name:
        raise RuntimeError(f"{KEY_FILE} is not set: the server does not start without a key")
    try:
        with open(name, "rb") as stream:  # noqa: PTH123 - fstat needs the very file that is read
            mode = os.fstat(stream.fileno()).st_mode
            key = stream.read().strip()
    except OSError as error:
        raise RuntimeError(f"the key file {name} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise RuntimeError(f"the key file {name} must be a plain file of mode 0600 or 0400")
    if not key or key.translate(None, VISIBLE_ASCII):
        raise RuntimeError(f"the key file {name} must hold one key of printable ASCII")
    return key


class KeyGuard:
    """An ASGI middleware that answers 401 to whoever does not show the key.

    The key may come as ``Authorization: Bearer KEY`` or, as Anthropic's clients send it, as
    ``x-api-key: KEY``. A header that occurs twice counts as wrong.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - see the key
        # A container sees the key file as it was when the container started, and what comes later
        # into a folder; so the job puts a key that replaces the first beside this file.
        self._key_files = {
            name: _signature(name)
            for name in (os.environ.get(KEY_FILE, ""), os.path.join(here, "key"))  # noqa: PTH118
        }
        self._key = read_key()
        self._draining_file = os.path.join(here, "draining")  # noqa: PTH118
        self._draining = ""
        self._key_looked = self._draining_looked = time.monotonic()
        self._in_flight = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it without reading its body."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        self._look()
        if _is_read_of(scope, "/health"):
            await self.app(scope, receive, send)
        elif not self._shows_key(scope):
            # Closed before it is accepted: the client of a websocket gets HTTP 403.
            await _refuse(kind, send, 401, REFUSAL, WEBSOCKET_POLICY_VIOLATION)
        elif _is_read_of(scope, "/metrics"):
            await self.app(scope, receive, self._counting(send))
        elif self._draining == "refuse":
            await _refuse(kind, send, 503, BUSY, WEBSOCKET_TRY_AGAIN_LATER)
        else:
            self._in_flight += 1
            try:
                await self.app(scope, receive, self._closing(send))
            finally:
                self._in_flight -= 1

    def _look(self) -> None:
        """Whether there is another key, and whether the server is to drain; seldom, as it costs."""
        now = time.monotonic()
        if now - self._key_looked >= KEY_LOOK_S:
            self._key_looked = now
            for name, known in self._key_files.items():
                found = _signature(name)
                if found != known:
                    self._key_files[name] = found
                    self._take_key(name)
        if now - self._draining_looked >= DRAINING_LOOK_S:
            self._draining_looked = now
            try:
                with open(self._draining_file, encoding="ascii") as stream:  # noqa: PTH123
                    self._draining = stream.read(100).strip()
            except (OSError, ValueError):
                self._draining = ""

    def _take_key(self, name: str) -> None:
        """The key of a file that has changed; without a usable one the old key stays."""
        try:
            self._key = read_key(name)
        except RuntimeError:
            return

    def _closing(self, send: Send) -> Send:
        """While the server drains, its connections end with their answer."""
        if not self._draining:
            return send
        return _with_header(send, b"connection", b"close")

    def _counting(self, send: Send) -> Send:
        """Requests that have come in and are not yet answered; the engine's metrics start later."""
        return _with_header(self._closing(send), IN_FLIGHT, str(self._in_flight).encode())

    def _shows_key(self, scope: Message) -> bool:
        authorization = _values(scope, b"authorization")
        shown = _values(scope, b"x-api-key")
        if len(authorization) > 1 or len(shown) > 1:
            return False
        for value in authorization:
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer":
                shown.append(credentials.strip(b" "))
        return any(hmac.compare_digest(candidate, self._key) for candidate in shown)


def _signature(name: str) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; empty when there is none."""
    try:
        found = os.stat(name)  # noqa: PTH116 - as little as possible runs for every request
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _with_header(send: Send, name: bytes, value: bytes) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() != name]
            message = {**message, "headers": [*others, (name, value)]}
        await send(message)

    return sending


def _values(scope: Message, name: bytes) -> list[bytes]:
    return [bytes(value) for header, value in scope.get("headers", ()) if header.lower() == name]


def _is_read_of(scope: Message, path: str) -> bool:
    """True for reading exactly this path as it stood in the request line: nothing decoded."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and scope["path"] == path
        and (scope.get("raw_path") or path.encode()) == path.encode()
    )


async def _refuse(kind: str, send: Send, status: int, said: object, websocket_code: int) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": websocket_code})
        return
    body = json.dumps(said).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:  # noqa: PLR2004 - HTTP's own numbers
        headers.append((b"www-authenticate", b"Bearer"))
    else:
        headers += [(b"retry-after", b"1"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "hpcvlm_guard":
    # As vLLM loads it: a server without a lock must end here, with a sentence. Were only the
    # constructor to fail, some versions would stay up and answer 500 to everything.
    read_key()
