"""A registry of one small image on the loopback, and the same image as an OCI layout on disk.

It speaks as much of the registry's HTTP API, version 2, as a pull needs
(github.com/opencontainers/distribution-spec), and can fail in the ways that registries do.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FAULTS = ("", "401", "404", "500", "cut", "digest", "layer")


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class SmallImage:
    """An image as a registry has it."""

    manifest: bytes
    config: bytes
    layer: bytes

    @property
    def digest(self) -> str:
        """Of the manifest, as an address names it."""
        return _digest(self.manifest)

    @property
    def blobs(self) -> dict[str, bytes]:
        """Everything but the manifest, by digest."""
        return {_digest(one): one for one in (self.config, self.layer)}

    def write_layout(self, folder: Path, tag: str = "v0.10.2") -> Path:
        """The image as an OCI layout, as ``oci:FOLDER`` reads it."""
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for content in (self.manifest, self.config, self.layer):
            (blobs / _digest(content).removeprefix("sha256:")).write_bytes(content)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        entry = {
            "mediaType": _MANIFEST,
            "digest": self.digest,
            "size": len(self.manifest),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return folder


def small_image(files: dict[str, bytes], links: dict[str, str]) -> SmallImage:
    """An image of one layer.

    Args:
        files: content by path; all may be executed.
        links: target by path.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = {str(parent) for path in (*files, *links) for parent in Path(path).parents}
        for name in sorted({*folders, "etc", "tmp", "proc", "sys", "dev"} - {"."}):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    layer = gzip.compress(buffer.getvalue(), mtime=0)
    diff = _digest(buffer.getvalue())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"org.hpcvlm.engine": "vllm"}},
            "rootfs": {"type": "layers", "diff_ids": [diff]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": _LAYER, "digest": _digest(layer), "size": len(layer)}],
        }
    ).encode()
    return SmallImage(manifest, config, layer)


@dataclass(slots=True)
class Registry:
    """A running stand-in.

    Attributes:
        repository: the only one that it has.
        fault: one of `FAULTS`; what it does instead of answering.
        asked: every path that was asked for.
    """

    image: SmallImage
    port: int
    repository: str = "vllm/vllm-openai"
    tag: str = "v0.10.2"
    fault: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        """As an address names it."""
        return f"127.0.0.1:{self.port}"

    def answer(self, path: str) -> tuple[int, str, bytes, int]:
        """Status, type, content, and the length that is promised."""
        self.asked.append(path)
        if path in {"/v2", "/v2/"}:
            return self._plain(401 if self.fault == "401" else 200, b"{}")
        if self.fault in {"401", "404", "500"}:
            code = {"401": "UNAUTHORIZED", "404": "MANIFEST_UNKNOWN", "500": "UNKNOWN"}[self.fault]
            words = {"401": "authentication required", "404": "manifest unknown", "500": "broken"}
            error = {"errors": [{"code": code, "message": words[self.fault]}]}
            return self._plain(int(self.fault), json.dumps(error).encode())
        start = f"/v2/{self.repository}/"
        kind, _, name = path.removeprefix(start).partition("/")
        if path.startswith(start) and kind == "manifests":
            if name in {self.tag, self.image.digest}:
                manifest = self.image.manifest
                content = manifest + b" " if self.fault == "digest" else manifest
                return 200, _MANIFEST, content, len(content)
        elif path.startswith(start) and kind == "blobs" and name in self.image.blobs:
            content = self.image.blobs[name]
            if self.fault == "cut" and content == self.image.layer:
                return 200, "application/octet-stream", content[: len(content) // 2], len(content)
            if self.fault == "layer" and content == self.image.layer:
                content = content[:-1] + bytes([content[-1] ^ 1])
            return 200, "application/octet-stream", content, len(content)
        return self._plain(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}')

    @staticmethod
    def _plain(status: int, content: bytes) -> tuple[int, str, bytes, int]:
        return status, "application/json", content, len(content)


@contextmanager
def registry(image: SmallImage) -> Iterator[Registry]:
    """A registry that serves one image until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            status, kind, content, length = stand_in.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(length))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            if kind == _MANIFEST:
                self.send_header("Docker-Content-Digest", stand_in.image.digest)
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="registry"')
            self.end_headers()
            if with_body:
                self.wfile.write(content)
            if len(content) != length:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up in the middle is none of our failures."""

    with Server(("127.0.0.1", 0), Handler) as server:
        stand_in = Registry(image, server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield stand_in
        finally:
            server.shutdown()
            thread.join()
