"""A stand-in for an engine of one job: enough of its API to be reached, proved, and drained.

    reach_engine.py NAME KEY_FILE DRAIN_FILE ADDRESS

ADDRESS is HOST:PORT or the path of a Unix socket. It answers a chat with NAME and with the text
that it was sent. While DRAIN_FILE holds ``close`` every answer closes its connection; while it
holds ``refuse`` new requests get 503, as the job's guard does it.
"""

from __future__ import annotations

import json
import socketserver
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

NAME, KEY_FILE, DRAIN_FILE, ADDRESS = sys.argv[1:5]
MODEL = "tiny-vlm"


class Handler(BaseHTTPRequestHandler):
    """The routes that are asked."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        """A Unix socket has none."""
        return "somebody"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def answer(self, status: int, body: object) -> None:
        """Send JSON."""
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        if status == 503:
            self.send_header("Retry-After", "1")
        if self.draining():
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)

    def draining(self) -> str:
        """What the drain file says."""
        try:
            return Path(DRAIN_FILE).read_text().strip()
        except OSError:
            return ""

    def may_go_on(self) -> bool:
        """Whether the key is right and requests are taken."""
        if self.headers.get("Authorization") != f"Bearer {Path(KEY_FILE).read_text().strip()}":
            self.answer(401, {"error": "Unauthorized"})
            return False
        if self.draining() == "refuse":
            self.answer(503, {"error": "draining"})
            return False
        return True

    def do_GET(self) -> None:
        """/health, /v1/models."""
        if self.path == "/health":
            self.answer(200, {})
        elif self.may_go_on():
            self.answer(200, {"object": "list", "data": [{"id": MODEL}]})

    def do_POST(self) -> None:
        """/v1/chat/completions; {"sleep": SECONDS} takes that long."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.may_go_on():
            time.sleep(body.get("sleep", 0))
            self.answer(200, {"by": NAME, "said": body["said"]})


class Server(socketserver.ThreadingMixIn, HTTPServer):
    """One thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def server_bind(self) -> None:
        """Without a look-up of the host's name."""
        self.socket.bind(self.server_address)

    def get_request(self) -> Any:
        """An address for a socket, too."""
        connection, address = self.socket.accept()
        return connection, address or ("socket", 0)


class SocketServer(Server):
    """On a Unix socket."""

    address_family = socketserver.socket.AF_UNIX  # type: ignore[attr-defined]
    allow_reuse_address = False


def main() -> None:
    """Serve until killed."""
    server: Server
    if "/" in ADDRESS:
        Path(ADDRESS).unlink(missing_ok=True)
        server = SocketServer(ADDRESS, Handler)  # type: ignore[arg-type]
    else:
        host, _, port = ADDRESS.rpartition(":")
        server = Server((host, int(port)), Handler)
    print(server.server_address, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
