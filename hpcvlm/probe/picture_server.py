"""A web server for one picture: what the engine is to fetch, and a record of who fetched it."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONNECTION_TIMEOUT_S = 30.0


class PictureServer:
    """One PNG under an address that nobody can guess.

    Args:
        png: the picture.
        host: this machine's address to listen at; the port is any free one.

    Raises:
        OSError: this machine has no such address, or no free port.
    """

    def __init__(self, png: bytes, host: str) -> None:
        self._clients: list[str] = []
        self._path = f"/{secrets.token_urlsafe(24)}.png"
        self._server = _server_class(host)((host, 0), _handler(png, self._path, self._clients))
        shown = f"[{host}]" if ":" in host else host
        self.origin = f"http://{shown}:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The picture's address."""
        return self.origin + self._path

    @property
    def fetched_from(self) -> tuple[str, ...]:
        """Addresses of those who fetched the picture, in order."""
        return tuple(self._clients)

    @contextmanager
    def running(self) -> Iterator[PictureServer]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def address_towards(host: str) -> str:
    """The address of this machine from which `host` is reached; nothing is sent.

    Raises:
        OSError: the name is unknown, or no route leads there.
    """
    family, kind, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def is_loopback(host: str) -> bool:
    """True for an address that only means something on the machine itself."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _server_class(host: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        def server_bind(self) -> None:
            # HTTPServer asks the name service for this host's name, which may hang for long.
            socketserver.TCPServer.server_bind(self)

    return Server


def _handler(png: bytes, path: str, clients: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_TIMEOUT_S

        def do_GET(self) -> None:
            if not secrets.compare_digest(self.path.encode(), path.encode()):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            clients.append(str(self.client_address[0]))
            self._head()
            self.wfile.write(png)

        def do_HEAD(self) -> None:
            if self.path == path:
                self._head()
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _head(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(png)))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: the terminal belongs to the command line."""

    return Handler
