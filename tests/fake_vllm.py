#!/usr/bin/env python3
"""A stand-in for `vllm serve` that starts in a moment: for tests of the job, not of the engine.

It takes vLLM's arguments, writes the log lines of vLLM 0.32.0 in their order and to their streams,
serves /health, /v1/models and /v1/chat/completions behind the key, and misbehaves on request:
FAKE_VLLM_MODE is one of the names below. FAKE_VLLM_ECHO names a file that gets its argv and
environment as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODES = (
    "ok",
    "die-loading",
    "die-after-ready",
    "port-taken-once",
    "hang",
    "blind",
    "open",
    "image-500",
    "ignore-term",
    "slow",
)
MODE = os.environ.get("FAKE_VLLM_MODE", "ok")
KEY_FILE = os.environ.get("HPCVLM_KEY_FILE")
STEP_S = float(os.environ.get("FAKE_VLLM_STEP_S", "0.1"))


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


class Handler(BaseHTTPRequestHandler):
    """The routes that the job asks."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: object) -> None:
        """Send JSON, spaced as vLLM does."""
        payload = json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def locked(self) -> bool:
        """Whether the request lacks the key."""
        if MODE == "open" or KEY_FILE is None:
            return False
        key = Path(KEY_FILE).read_text(encoding="ascii").strip()
        return self.headers.get("Authorization") != f"Bearer {key}"

    def do_GET(self) -> None:
        """/health, /v1/models."""
        if self.path == "/health":
            self.answer(200, {})
        elif self.locked():
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": option("served-model-name")}]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        """/v1/chat/completions."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.locked():
            self.answer(401, {"error": "Unauthorized"})
            return
        content = body["messages"][0]["content"]
        images = sum(part["type"] == "image_url" for part in content)
        if images and MODE == "image-500":
            self.answer(500, {"error": {"message": "out of memory", "code": 500}})
            return
        tokens = 14 + (0 if MODE == "blind" else 16 * images)
        text = "a red circle" if images else "no image"
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": tokens, "completion_tokens": 4, "total_tokens": tokens + 4}
        self.answer(200, {"choices": [{"index": 0, "message": message}], "usage": usage})
        if images and MODE == "die-after-ready":
            time.sleep(1.5)
            print("RuntimeError: CUDA error: an illegal memory access", file=sys.stderr, flush=True)
            os._exit(3)


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
    start_up()
    if MODE == "hang":
        time.sleep(3600)
    server = ThreadingHTTPServer((option("host"), int(option("port"))), Handler)
    print("INFO:     Application startup complete.", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
