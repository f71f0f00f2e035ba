"""A small stand-in for vLLM 0.32's API server: real HTTP on the loopback, scripted sight.

It really fetches addresses, reads files and counts images. What it "sees" it looks up: the pictures
of a smoke test follow from its seed, so a test knows them before they are drawn. The error bodies
are those that a vLLM 0.32.0 server sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MODEL = "tiny-vlm"
KEY = "hv-0123456789abcdef"
VERSION = "0.32.0"
FINGERPRINT = "vllm-0.32.0-tp1-5fab1c9e"
TOKENS_PER_IMAGE = 16
NOBODY_THERE = "10.255.255.1"


@dataclass
class Manner:
    """How the stand-in behaves; the default is a server that sees and follows its rules."""

    key: str | None = KEY
    locked: bool = True
    models: tuple[str, ...] = (MODEL,)
    known: dict[str, str] = field(default_factory=dict)  # digest of a picture -> what it shows
    vision: bool = True
    blind: bool = False  # answers about images that it never took in
    says: str | None = None  # the same answer to everything
    swaps: bool = False  # tells two pictures in the wrong order
    streams: bool = True
    stream_usage: bool = True
    stream_breaks: bool = False
    usage: bool = True
    limit: int = 2
    enforces_limit: bool = True
    can_fetch: bool = True  # there is a way from its node to the picture
    fetch_status: int | None = None  # a proxy in between answers this
    allowed_domains: tuple[str, ...] = ()
    media_root: Path | None = None
    context: int = 100_000
    delay_s: float = 0.0
    thinks: bool = False


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """An error answer in the words of the real server."""

    def __init__(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_request(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, message, "BadRequestError", param)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class StubEngine:
    """The stand-in server; `requests` are the bodies of all chat requests so far."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[StubEngine]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def answer(self, body: dict[str, Any]) -> tuple[str, int]:
        """The words and the prompt's tokens, or a Refusal."""
        self.requests.append(body)
        manner = self.manner
        if body["model"] not in manner.models:
            raise Refusal(
                404,
                f"The model `{body['model']}` does not exist. Valid aliases: "
                f"{', '.join(manner.models)}.",
                "NotFoundError",
                "model",
            )
        text, urls = _parts(body["messages"][0]["content"])
        if urls and not manner.vision:
            raise bad_request(f"{body['model']} is not a multimodal model")
        if manner.enforces_limit and len(urls) > manner.limit:
            raise bad_request(
                f"At most {manner.limit} image(s) may be provided in one prompt. (parameter=image)",
                "image",
            )
        images = [self._load(url) for url in urls]
        tokens = len(text.split()) + (0 if manner.blind else TOKENS_PER_IMAGE * len(images))
        if tokens > manner.context:
            raise bad_request(
                f"This model's maximum context length is {manner.context} tokens. However, your "
                f"prompt contains at least {tokens} input tokens, which exceeds this limit even "
                "without any output tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={tokens})",
                "input_tokens",
            )
        return self._words(images), tokens

    def _words(self, images: list[bytes]) -> str:
        if self.manner.says is not None:
            return self.manner.says
        if not images:
            return "hello there"
        if self.manner.blind:
            return "a nice picture"
        seen = [self.manner.known.get(digest(image), "something odd") for image in images]
        return ", ".join(reversed(seen) if self.manner.swaps else seen)

    def _load(self, url: str) -> bytes:
        scheme = urlsplit(url).scheme
        if scheme == "data":
            return base64.b64decode(url.partition(",")[2])
        if scheme == "file":
            return self._load_file(Path(unquote(urlsplit(url).path)))
        if scheme in ("http", "https"):
            return self._fetch(url)
        raise bad_request("The URL must be either a HTTP, data or file URL.")

    def _load_file(self, path: Path) -> bytes:
        root = self.manner.media_root
        if root is None:
            raise bad_request("Cannot load local files without `--allowed-local-media-path`.")
        if not path.resolve().is_relative_to(root.resolve()):
            raise bad_request(
                "The file path <path> must be a subpath of `--allowed-local-media-path <path>`."
            )
        try:
            return path.read_bytes()
        except OSError:
            words = "[Errno 2] No such file or directory: '<path>'"
            raise Refusal(500, words, "InternalServerError") from None

    def _fetch(self, url: str) -> bytes:
        manner = self.manner
        host = urlsplit(url).hostname
        if manner.allowed_domains and host not in manner.allowed_domains:
            raise bad_request(
                f"The URL must be from one of the allowed domains: "
                f"{list(manner.allowed_domains)}. Input URL domain: {host}"
            )
        if manner.fetch_status is not None:
            raise _remote(manner.fetch_status, url)
        try:
            if not manner.can_fetch:
                raise urllib.error.URLError("no route")
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(url, timeout=5) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise _remote(error.code, url) from None
        except OSError:
            raise Refusal(
                500,
                f"Cannot connect to host {urlsplit(url).netloc} ssl:default "
                f"[Connect call failed ('{host}', {urlsplit(url).port})]",
                "InternalServerError",
            ) from None


def _remote(status: int, url: str) -> Refusal:
    return Refusal(
        422,
        f"Failed to fetch media from URL: HTTP {status} error (parameter=image_url, value={url})",
        "UnprocessableEntityError",
        "image_url",
    )


def _parts(content: str | list[dict[str, Any]]) -> tuple[str, list[str]]:
    if isinstance(content, str):
        return content, []
    texts = [part["text"] for part in content if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    return " ".join(texts), urls


class _Handler(BaseHTTPRequestHandler):
    engine: StubEngine

    def do_GET(self) -> None:
        self.engine.paths.append(self.path)
        if not self._allowed():
            return
        if self.path == "/v1/models":
            entries = [{"id": name, "object": "model"} for name in self.engine.manner.models]
            self._send(200, {"object": "list", "data": entries})
        elif self.path == "/version":
            self._send(200, {"version": VERSION})
        else:
            self._send(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        self.engine.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        time.sleep(self.engine.manner.delay_s)
        try:
            words, tokens = self.engine.answer(body)
        except Refusal as refusal:
            self._send(refusal.status, refusal.body)
            return
        if body.get("stream") and self.engine.manner.streams:
            self._stream(words, tokens)
        else:
            self._send(200, _completion(self.engine.manner, words, tokens, "message"))

    def _allowed(self) -> bool:
        manner = self.engine.manner
        if manner.key is None or not manner.locked:
            return True
        if self.headers["Authorization"] == f"Bearer {manner.key}":
            return True
        self._send(401, {"error": "Unauthorized"})
        return False

    def _stream(self, words: str, tokens: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        pieces = ["", *(f"{word} " for word in words.split(" "))]
        for piece in pieces:
            self._event(_completion(self.engine.manner, piece, None, "delta"))
        if self.engine.manner.stream_breaks:
            self._event({"error": {"message": "EngineCore encountered an issue.", "code": 500}})
            return
        if self.engine.manner.stream_usage:
            self._event({"choices": [], "usage": _usage(words, tokens)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _handler(engine: StubEngine) -> type[_Handler]:
    return type("BoundHandler", (_Handler,), {"engine": engine})


def _completion(manner: Manner, words: str, tokens: int | None, where: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": words}
    if manner.thinks:
        message = {"role": "assistant", "content": None, "reasoning": words}  # type: ignore[dict-item]
    value: dict[str, Any] = {
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, where: message, "finish_reason": None}],
    }
    if tokens is not None and manner.usage:
        value["choices"][0]["finish_reason"] = "stop"
        value["usage"] = _usage(words, tokens)
    return value


def _usage(words: str, tokens: int) -> dict[str, int]:
    said = len(words.split())
    return {
        "prompt_tokens": tokens,
        "completion_tokens": said,
        "total_tokens": tokens + said,
    }
