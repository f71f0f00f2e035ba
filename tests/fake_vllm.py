#!/usr/bin/env python3
"""A stand-in for `vllm serve` that starts in a moment: for tests of the job, not of the engine.

It takes vLLM's arguments, writes the log lines of vLLM 0.32.0 in their order and to their streams,
serves /health, /metrics, /v1/models and /v1/chat/completions behind the job's own guard, and
misbehaves on request: FAKE_VLLM_MODE is one of the names below. FAKE_VLLM_ECHO names a file that
gets its argv and environment as JSON. A question that says "sleep 2.5" is answered after so many
seconds; FAKE_VLLM_TOKENS is what its counters of tokens begin with.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODES = (
    "ok",
    "die-loading",
    "die-after-ready",
    "die-once-after-ready",
    "port-taken-once",
    "hang",
    "hang-after-ready",
    "stall",
    "blind",
    "open",
    "image-500",
    "ignore-term",
    "slow",
)
MODE = os.environ.get("FAKE_VLLM_MODE", "ok")
STEP_S = float(os.environ.get("FAKE_VLLM_STEP_S", "0.1"))
TOKENS = float(os.environ.get("FAKE_VLLM_TOKENS", "0"))
FOREVER_S = 3600.0

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


def option(name: str, default: str = "") -> str:
    """The value of --name in argv."""
    for i, word in enumerate(sys.argv):
        if word == f"--{name}":
            return sys.argv[i + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return default


def log(message: str) -> None:
    """One record as vLLM 0.32 writes it, to stdout."""
    print(f"(APIServer pid={os.getpid()}) INFO 11-21 04:26:10 [x.py:1] {message}", flush=True)


class Counters:
    """What two engines behind one server count; requests go to them in turn."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = [0, 0]
        self.finished = [0, 0]
        self.prompt = [TOKENS, 0.0]
        self.generation = [TOKENS, 0.0]
        self.turn = 0

    def begin(self) -> int:
        """A request begins; gives the engine that has it."""
        with self.lock:
            self.turn = 1 - self.turn
            self.running[self.turn] += 1
            return self.turn

    def end(self, engine: int, prompt: int, generation: int) -> None:
        """A request was answered."""
        with self.lock:
            self.running[engine] -= 1
            self.finished[engine] += 1
            self.prompt[engine] += prompt
            self.generation[engine] += generation

    def text(self) -> str:
        """As Prometheus' client writes it."""
        lines = []
        for name, values in (
            ("num_requests_running", self.running),
            ("num_requests_waiting", [0, 0]),
            ("prompt_tokens_total", self.prompt),
            ("generation_tokens_total", self.generation),
        ):
            lines += [f"# HELP vllm:{name} Some words.", f"# TYPE vllm:{name} gauge"]
            lines += [
                f'vllm:{name}{{engine="{engine}",model_name="a {{ b"}} {go_float(value)}'
                for engine, value in enumerate(values)
            ]
        for engine, count in enumerate(self.finished):
            labels = f'engine="{engine}",finished_reason="{{}}",model_name="a {{{{ b"'
            stop, length = labels.format("stop"), labels.format("length")
            lines.append(f"vllm:request_success_total{{{stop}}} {go_float(count)}")
            lines.append(f"vllm:request_success_total{{{length}}} 0.0")
            lines.append(f"vllm:request_success_created{{{stop}}} 1.7952335209770808e+09")
        lines.append('vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 7.0')
        return "\n".join(lines) + "\n"


def go_float(value: float) -> str:
    """A number as prometheus_client.utils.floatToGoString writes it."""
    text = repr(float(value))
    dot = text.find(".")
    if value > 0 and dot > 6:
        mantissa = f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.")
        return f"{mantissa}e+0{dot - 1}"
    return text


COUNTERS = Counters()


class Handler(BaseHTTPRequestHandler):
    """The routes that the job asks."""

    protocol_version = "HTTP/1.1"
    proved = False
    reply: tuple[int, bytes, str]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """Of nobody: there is none on a Unix socket."""
        return ""

    def answer(self, status: int, body: object) -> None:
        """Say JSON, spaced as vLLM does."""
        payload = json.dumps(body, separators=(",", ":")).encode()
        self.reply = (status, payload, "application/json")

    def do_GET(self) -> None:
        """/health, /metrics, /v1/models."""
        self.pass_guard(b"")

    def do_POST(self) -> None:
        """/v1/chat/completions."""
        self.pass_guard(self.rfile.read(int(self.headers["Content-Length"])))

    def pass_guard(self, body: bytes) -> None:
        """Let the job's guard decide, as it does in the engine."""
        scope: Message = {
            "type": "http",
            "method": self.command,
            "path": self.path,
            "raw_path": self.path.encode(),
            "headers": [(k.lower().encode(), v.encode()) for k, v in self.headers.items()],
            "handler": self,
            "body": body,
        }

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.send_response(message["status"])
                for name, value in message["headers"]:
                    self.send_header(name.decode(), value.decode())
                self.end_headers()
            else:
                self.wfile.write(message.get("body", b""))

        asyncio.run(GUARD(scope, receive, send))
        if b"image_url" in body:
            self.after_proof()

    def after_proof(self) -> None:
        """What some modes do once the job has what it wants."""
        type(self).proved = True
        once = Path(os.environ["HPCVLM_KEY_FILE"]).with_name("died-once")
        if MODE == "die-after-ready" or (MODE == "die-once-after-ready" and not once.exists()):
            once.touch()
            time.sleep(1.5)
            print("RuntimeError: CUDA error: an illegal memory access", file=sys.stderr, flush=True)
            os._exit(3)

    def route(self, body: bytes) -> None:
        """Sets the reply of one request that passed the guard."""
        if MODE == "hang-after-ready" and self.proved:
            time.sleep(FOREVER_S)
        if self.path == "/health":
            self.answer(200, {})
        elif self.path == "/metrics":
            self.reply = (200, COUNTERS.text().encode(), "text/plain; version=0.0.4")
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": option("served-model-name")}]})
        elif self.path == "/v1/chat/completions":
            self.chat(json.loads(body))
        else:
            self.answer(404, {"detail": "Not Found"})

    def chat(self, body: dict[str, Any]) -> None:
        """An answer to one chat request."""
        content = body["messages"][0]["content"]
        images = sum(part["type"] == "image_url" for part in content)
        if images and MODE == "image-500":
            self.answer(500, {"error": {"message": "out of memory", "code": 500}})
            return
        engine = COUNTERS.begin()
        if MODE == "stall" and self.proved:
            time.sleep(FOREVER_S)
        if asked := re.search(r"sleep ([0-9.]+)", str(content[-1].get("text"))):
            time.sleep(float(asked[1]))
        tokens = 14 + (0 if MODE == "blind" else 16 * images)
        text = "a red circle" if images else "no image"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": tokens, "completion_tokens": 4, "total_tokens": tokens + 4}
        COUNTERS.end(engine, tokens, 4)
        self.answer(200, {"choices": [{"index": 0, "message": message}], "usage": usage})


async def app(scope: Message, _receive: object, send: Send) -> None:
    """The server behind the guard."""
    handler: Handler = scope["handler"]
    handler.route(scope["body"])
    status, payload, kind = handler.reply
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(payload)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})


def guarded() -> Callable[..., Any]:
    """The app behind the guard that its arguments name, if they name one."""
    if MODE == "open" or not option("middleware") or "HPCVLM_KEY_FILE" not in os.environ:
        return app
    sys.dont_write_bytecode = True
    module, _, name = option("middleware").rpartition(".")
    guard: Callable[..., Any] = getattr(__import__(module), name)(app)
    return guard


GUARD = app


class SocketServer(ThreadingHTTPServer):
    """On a Unix socket."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Without asking for the name of a host."""
        self.socket.bind(self.server_address)


def start_up() -> None:
    """The log of a start, one step after another."""
    lines = (
        "vLLM server version 0.32.0",
        "Starting to load model /models/x...",
        "Loading weights took 0.01 seconds",
        "Available KV cache memory: 1.00 GiB",
        "init engine (profile, create kv cache, warmup model) took 3.23 s",
    )
    for line in lines:
        log(line)
        if MODE == "die-loading" and "Starting to load" in line:
            log("EngineCore failed to start.")
            print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
            sys.exit(1)
        time.sleep(STEP_S * (20 if MODE == "slow" else 1))


def main() -> None:
    """Serve until SIGTERM."""
    if echo := os.environ.get("FAKE_VLLM_ECHO"):
        text = json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ)})
        Path(echo).write_text(text, encoding="utf-8")
    if MODE == "ignore-term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    marker = Path(os.environ.get("TMPDIR", "/tmp")) / f"fake-vllm-{os.getppid()}"
    if MODE == "port-taken-once" and not marker.exists():
        marker.touch()
        print("OSError: [Errno 98] Address already in use", file=sys.stderr, flush=True)
        sys.exit(1)
    marker.unlink(missing_ok=True)
    global GUARD  # noqa: PLW0603 - it needs the job's environment, which an import does not
    GUARD = guarded()
    start_up()
    if MODE == "hang":
        time.sleep(FOREVER_S)
    server: ThreadingHTTPServer
    if path := option("uds"):
        server = SocketServer(path, Handler)  # type: ignore[arg-type]
    else:
        server = ThreadingHTTPServer((option("host"), int(option("port"))), Handler)
    print("INFO:     Application startup complete.", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
