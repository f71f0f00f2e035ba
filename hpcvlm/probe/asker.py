"""The smoke test's requests: one HTTP client, whose troubles come back as values."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import httpx

from hpcvlm.errors import HpcvlmError
from hpcvlm.probe.model import Target
from hpcvlm.probe.replies import OK, Event, Reply, Trouble, shortened

CONNECT_TIMEOUT_S = 10.0
SHORTEST_KEY_HIDDEN = 6
CHAT = "/v1/chat/completions"
STREAM_TYPE = "text/event-stream"
STREAM_END = "[DONE]"


class Asker:
    """Sends requests to one endpoint.

    Proxies and passwords of the environment are not used: the test talks to the endpoint itself.

    Args:
        target: the endpoint.
        timeout_s: longest wait for an answer; a connection has ten seconds at most.
        transport: stands in for the network in tests.

    Raises:
        HpcvlmError: the address or the key cannot be used in a request.
    """

    def __init__(
        self, target: Target, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._key = checked_key(target.key)
        self._timeout_s = timeout_s
        if transport is None and target.socket is not None:
            transport = httpx.HTTPTransport(uds=str(target.socket), trust_env=False)
        self._client = httpx.Client(
            base_url=checked_address(target.url),
            # A new connection for each request: after a 500, vLLM's server drops the old one
            # without a word, and the next request would look like a dead engine.
            headers={"Connection": "close"},
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, *, with_key: bool = True) -> Reply:
        """Ask for a page, with the key or without it."""
        return self._ask("GET", path, None, with_key=with_key)

    def chat(self, body: dict[str, Any]) -> Reply:
        """Ask for a chat completion; a streamed one comes back as events."""
        return self._ask("POST", CHAT, body, with_key=True)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None, *, with_key: bool) -> Reply:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key and with_key else {}
        start = time.perf_counter()
        try:
            with self._client.stream(method, path, json=body, headers=headers) as response:
                return self._read(response, start)
        except (httpx.HTTPError, httpx.StreamError) as error:
            trouble = _trouble(error)
            detail = self._without_key(_words(error))
            return Reply(None, seconds=_since(start), trouble=trouble, detail=detail)

    def _read(self, response: httpx.Response, start: float) -> Reply:
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == OK and content_type == STREAM_TYPE:
            return self._read_events(response, start)
        response.read()
        text = self._without_key(response.text)
        return Reply(response.status_code, text, _since(start), content_type)

    def _read_events(self, response: httpx.Response, start: float) -> Reply:
        events: list[Event] = []
        trouble, detail = Trouble.NONE, ""
        try:
            for line in _data_lines(response.iter_lines()):
                events.append(Event(_since(start), self._without_key(line)))
                if _since(start) > self._timeout_s:
                    trouble = Trouble.TIMEOUT
                    break
        except httpx.HTTPError as error:
            trouble, detail = _trouble(error), self._without_key(_words(error))
        return Reply(
            response.status_code,
            "",
            _since(start),
            STREAM_TYPE,
            tuple(events),
            trouble,
            detail,
        )

    def _without_key(self, text: str) -> str:
        if self._key and len(self._key) >= SHORTEST_KEY_HIDDEN:
            return text.replace(self._key, "***")
        return text


def checked_address(url: str) -> str:
    """The base address of an endpoint, without a trailing slash or /v1.

    Raises:
        HpcvlmError: it is no http or https address, or carries a password.
    """
    base = url.rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(base)
    except httpx.InvalidURL as error:
        raise HpcvlmError("endpoint-address", f"{url} is no address: {error}") from None
    if parsed.userinfo:
        raise HpcvlmError(
            "endpoint-address",
            f"the address of {parsed.host} carries a user name or password",
            "give the plain address, and the key by file or environment",
        )
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise HpcvlmError(
            "endpoint-address", f"{url} is no http address", "give it as http://HOST:PORT"
        )
    return base


def checked_key(key: str | None) -> str | None:
    """The key, if it can stand in a request's header.

    Raises:
        HpcvlmError: it holds spaces, line ends or other characters that a header cannot carry.
    """
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key and key):
        raise HpcvlmError(
            "key-malformed",
            "the endpoint's key is empty or holds characters that a request cannot carry",
            "read it again from the job's key file, without the line end",
        )
    return key


def _data_lines(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            if data == STREAM_END:
                return
            yield data


def _trouble(error: Exception) -> Trouble:
    words = _words(error).lower()
    if isinstance(error, httpx.ConnectError):
        return next((trouble for word, trouble in _CONNECT_WORDS if word in words), Trouble.REFUSED)
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Trouble.CONNECT_TIMEOUT
    if isinstance(error, httpx.TimeoutException):
        return Trouble.TIMEOUT
    cut_short = "disconnected" in words or "closed connection" in words
    if isinstance(error, httpx.RemoteProtocolError) and not cut_short:
        return Trouble.NOT_HTTP
    return Trouble.BROKEN


def _words(error: Exception) -> str:
    return shortened(str(error)) or type(error).__name__


def _since(start: float) -> float:
    return time.perf_counter() - start


_CONNECT_WORDS = (
    ("ssl", Trouble.TLS),
    ("certificate", Trouble.TLS),
    ("name or service", Trouble.NAME),
    ("name resolution", Trouble.NAME),
    ("no address associated", Trouble.NAME),
)
