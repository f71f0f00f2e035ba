"""The door of a vLLM server: every path needs the job's key, except GET or HEAD /health.

vLLM's own --api-key leaves /metrics, /invocations, /tokenize and others open. A job writes this
file as ``hpcvlm_guard.py`` beside its script, puts that folder on PYTHONPATH and starts the server
with ``--middleware hpcvlm_guard.KeyGuard``. It runs inside the engine's container: standard
library only, Python 3.9 or newer, nothing from hpcvlm.
"""

from __future__ import annotations

import hmac
import json
import os
import stat
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
WEBSOCKET_POLICY_VIOLATION = 1008
VISIBLE_ASCII = bytes(range(ord("!"), ord("~") + 1))


def read_key() -> bytes:
    """The key in the file that HPCVLM_KEY_FILE names.

    Raises:
        RuntimeError: there is no such file, others may read it, or it holds no usable key.
    """
    name = os.environ.get(KEY_FILE, "")
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
        self._key = read_key()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it without reading its body."""
        kind = scope["type"]
        if kind == "lifespan" or _is_health(scope) or self._shows_key(scope):
            await self.app(scope, receive, send)
        elif kind == "websocket":
            # Closed before it is accepted: the client gets HTTP 403.
            await send({"type": "websocket.close", "code": WEBSOCKET_POLICY_VIOLATION})
        else:
            await _refuse(send)

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


def _values(scope: Message, name: bytes) -> list[bytes]:
    return [bytes(value) for header, value in scope.get("headers", ()) if header.lower() == name]


def _is_health(scope: Message) -> bool:
    """True for exactly this path as it stood in the request line: nothing decoded or tidied."""
    return (
        scope["type"] == "http"
        and scope["method"] in ("GET", "HEAD")
        and scope["path"] == "/health"
        and (scope.get("raw_path") or b"/health") == b"/health"
    )


async def _refuse(send: Send) -> None:
    body = json.dumps(REFUSAL).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "hpcvlm_guard":
    # As vLLM loads it: a server without a lock must end here, with a sentence. Were only the
    # constructor to fail, some versions would stay up and answer 500 to everything.
    read_key()
