"""A hub on this machine, for tests: speaks what huggingface_hub really asks, and can fail.

The requests are those of huggingface_hub 2.4.0 (file_download.py, hf_api.py, utils/_http.py):
the model's info, its tree by pages, paths-info, refs, commits, auth-check, HEAD and GET of
``resolve``, a redirect of large files to another host, and parts of files (Range). Errors carry
``X-Error-Code`` as the hub's do.

    with HubStandIn({"org/model": {"main": {"config.json": b"{}"}}}) as hub:
        command = Command(tmp_path, hub.environment())
        hub.faults.append(Fault("model.safetensors", cut_after=1000, times=1))
        ...
        assert hub.bytes_of("model.safetensors") == 4096
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes | Path]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_API = re.compile(
    r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs|commits|auth-check)(/.*)?)?"
)
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 1 << 20


@dataclass
class Fault:
    """What goes wrong.

    Attributes:
        path: files of a repository, as a pattern; ``api`` for the hub's API (info, tree, …).
        method: only for requests of this method; all when empty. GET of a large file is the
            redirected one.
        times: how many requests it meets; None for all.
        status: answer this instead.
        headers: of that answer.
        cut_after: send so many bytes of the body, and close the connection.
        content: send this instead, with the hashes of the right content.
        length: announce this length instead (Content-Length, X-Linked-Size).
        bytes_per_s: send no faster; 0 sets an answer free that is on its way.
        silent: never answer.
        delay_s: wait before the answer.
    """

    path: str = "*"
    method: str = ""
    times: int | None = None
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    cut_after: int | None = None
    content: bytes | None = None
    length: int | None = None
    bytes_per_s: float = 0.0
    silent: bool = False
    delay_s: float = 0.0

    def meets(self, path: str, method: str) -> bool:
        """Whether a request is met by it, which uses up one of its times."""
        if self.times == 0 or (self.method and self.method != method):
            return False
        if not fnmatch.fnmatch(path, self.path) or (path == "api") != (self.path == "api"):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Asked:
    """One request that came.

    Attributes:
        file: the repository's file that it is about; ``api`` for the others.
        range: the Range header.
        token: the bearer's; empty without.
        status: of the answer.
        sent: bytes of the body that were handed to the kernel.
    """

    method: str
    path: str
    file: str
    range: str
    token: str
    status: int = 0
    sent: int = 0


def git_hash(content: bytes) -> str:
    """SHA-1 of a Git blob: how the hub names small files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class HubStandIn:
    """Serves models from memory, or from files, until it is left.

    Args:
        models: repository -> branch, tag or commit -> path -> content. A branch's commit is made
            from its content; a commit of 40 digits is itself, and ``main`` the last one named
            where there is no other main.
        lfs_from: files of this many bytes and more are in LFS (redirected, named by SHA-256).
        page: entries of one page of a tree.
        licence: of every model.

    Attributes:
        requests: every request, in the order of arrival.
        faults: what goes wrong; the first that meets a request counts.
        gated: repositories that need a token whose owner accepted the terms.
        accepted: those tokens.
        unknown_tokens: tokens that the hub never gave.
        private: repositories that nobody without one of these tokens knows of.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Files]],
        *,
        lfs_from: int = 1000,
        page: int = 1000,
        licence: str = "apache-2.0",
    ) -> None:
        self.requests: list[Asked] = []
        self.faults: list[Fault] = []
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.accepted: set[str] = set()
        self.unknown_tokens: set[str] = set()
        self.page = page
        self.licence = licence
        self.lfs_from = lfs_from
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.refs: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, Files]] = {}
        self.large: dict[str, tuple[str, bytes | Path]] = {}
        self.hashes: dict[Path, tuple[str, str]] = {}
        for repo, revisions in models.items():
            for revision, files in revisions.items():
                self.put(repo, revision, files)
        self._connections: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def put(self, repo: str, revision: str, files: Files) -> str:
        """Give a repository a commit, and a branch or tag that points to it; its commit."""
        names = "\n".join(f"{path} {self.file_hash(files[path])}" for path in sorted(files))
        made = hashlib.sha1(f"{repo}\n{names}".encode(), usedforsecurity=False).hexdigest()
        commit = revision if _COMMIT.fullmatch(revision) else made
        self.commits.setdefault(repo, {})[commit] = files
        refs = self.refs.setdefault(repo, {})
        refs["main" if commit == revision and "main" not in refs else revision] = commit
        for path, content in files.items():
            if self.size(content) >= self.lfs_from:
                self.large[self.file_hash(content)] = (path, content)
        return commit

    def size(self, content: bytes | Path) -> int:
        """Bytes of a file."""
        return content.stat().st_size if isinstance(content, Path) else len(content)

    def file_hash(self, content: bytes | Path) -> str:
        """How the hub names a content: SHA-256 of files in LFS, else SHA-1 of the Git blob."""
        if isinstance(content, Path):
            if content not in self.hashes:
                with content.open("rb") as stream:
                    whole = hashlib.file_digest(stream, "sha256").hexdigest()
                small = content.stat().st_size < self.lfs_from
                self.hashes[content] = (whole, git_hash(content.read_bytes()) if small else "")
            whole, git = self.hashes[content]
            return git or whole
        if len(content) >= self.lfs_from:
            return hashlib.sha256(content).hexdigest()
        return git_hash(content)

    def commit(self, repo: str, revision: str = "main") -> str:
        """The commit of a branch, tag or whole commit; empty for none.

        The hub wants a commit's "full-length hash instead of a 7-character commit hash"
        (https://huggingface.co/docs/huggingface_hub/guides/download).
        """
        known = revision if revision in self.commits.get(repo, {}) else ""
        return self.refs.get(repo, {}).get(revision, known)

    def bytes_of(self, path: str) -> int:
        """Bytes of a file's content that were sent in all answers together."""
        return sum(asked.sent for asked in self.requests if asked.file == path)

    def gets_of(self, path: str) -> list[Asked]:
        """The requests for a file's content (not the redirects)."""
        return [
            asked
            for asked in self.requests
            if asked.file == path and asked.method == "GET" and asked.status in {200, 206}
        ]

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must say."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def cdn(self) -> str:
        """Where large files are: the same server by another host name."""
        return f"http://localhost:{self._server.server_address[1]}/cdn"

    def environment(self, token: str = "") -> dict[str, str]:
        """What makes huggingface_hub speak to this hub, and to no other."""
        found = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
        return {**found, "HF_TOKEN": token} if token else found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        with self.lock:
            waiting = list(self._connections)
        for connection in waiting:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()

    def opened(self, connection: socket.socket) -> None:
        """A connection is served from now on."""
        with self.lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """A connection is served no more."""
        with self.lock:
            self._connections.discard(connection)

    def fault(self, path: str, method: str) -> Fault | None:
        """The fault that meets a request."""
        with self.lock:
            return next((fault for fault in self.faults if fault.meets(path, method)), None)


class _Server(ThreadingHTTPServer):
    hub: HubStandIn
    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that is killed closes its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    asked: Asked

    def setup(self) -> None:
        super().setup()
        self.server.hub.opened(self.connection)

    def finish(self) -> None:
        self.server.hub.closed(self.connection)
        with suppress(OSError):
            super().finish()

    def log_message(self, *args: Any) -> None:
        """Keep it out of the tests' output."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        file = self._file(url.path)
        self.asked = Asked(self.command, self.path, file, self.headers.get("Range") or "", token)
        with hub.lock:
            hub.requests.append(self.asked)
        # The redirect of a large file is no place for a fault of its content.
        redirected = self.command == "GET" and file != "api" and self._is_redirect(url.path)
        fault = None if redirected else hub.fault(file, self.command)
        if fault is not None and (fault.silent or fault.delay_s):
            hub.stopped.wait(None if fault.silent else fault.delay_s)
            if fault.silent:
                self.close_connection = True
                return
        if fault is not None and fault.status:
            self._answer(fault.status, b"fault", dict(fault.headers))
            return
        if url.path.startswith("/cdn/"):
            _, content = hub.large[url.path.rsplit("/", 1)[1]]
            self._content(content, fault, {"ETag": f'"{hub.file_hash(content)}"'})
        elif match := _API.fullmatch(url.path):
            self._api(match, parse_qs(url.query), body)
        elif match := _RESOLVE.fullmatch(url.path):
            self._resolve(match[1], unquote(match[2]), unquote(match[3]), fault)
        else:
            self._answer(404, b"Not Found")

    def _file(self, path: str) -> str:
        if path.startswith("/cdn/"):
            return self.server.hub.large.get(path.rsplit("/", 1)[1], ("api", b""))[0]
        match = _RESOLVE.fullmatch(path)
        return unquote(match[3]) if match and not path.startswith("/api/") else "api"

    def _is_redirect(self, path: str) -> bool:
        hub, match = self.server.hub, _RESOLVE.fullmatch(path)
        if match is None:
            return False
        commit = hub.commit(match[1], unquote(match[2]))
        content = hub.commits.get(match[1], {}).get(commit, {}).get(unquote(match[3]), b"")
        return hub.size(content) >= hub.lfs_from

    def _refused(self, repo: str, revision: str | None, *, content: bool) -> bool:
        """Answer as the hub does to those who may not; the API shows a gated one to everybody."""
        hub, token = self.server.hub, self.asked.token
        if token in hub.unknown_tokens:
            message = "Invalid credentials in Authorization header"
            self._answer(401, b"", {"X-Error-Message": message})
        elif repo not in hub.commits or (repo in hub.private and token not in hub.accepted):
            # Without a token the hub says 401 for what is not there, too.
            status = 404 if token else 401
            message = "Repository not found" if token else "Invalid username or password."
            headers = {"X-Error-Code": "RepoNotFound"} if token else {}
            self._answer(status, b"", {**headers, "X-Error-Message": message})
        elif content and repo in hub.gated and token not in hub.accepted:
            message = f"Access to model {repo} is restricted"
            headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": message}
            self._answer(403 if token else 401, b"", headers)
        elif revision is not None and not hub.commit(repo, revision):
            headers = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
            self._answer(404, b"", headers)
        else:
            return False
        return True

    def _api(self, match: re.Match[str], query: dict[str, list[str]], body: bytes) -> None:
        hub, repo, what = self.server.hub, match[1], match[2]
        rest = unquote((match[3] or "").lstrip("/"))
        revision = "main" if what in {None, "refs", "auth-check"} else rest
        if self._refused(repo, revision, content=what == "auth-check"):
            return
        commit = hub.commit(repo, revision)
        entries = self._entries(repo, commit)
        if what in {None, "revision"}:
            self._json(self._info(repo, commit, entries))
        elif what == "tree":
            self._tree(entries, int(query.get("cursor", ["0"])[0]))
        elif what == "paths-info":
            wanted = parse_qs(body.decode()).get("paths", [])
            self._json([entry for entry in entries if entry["path"] in wanted])
        elif what == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": target}
                for name, target in hub.refs[repo].items()
            ]
            self._json({"branches": branches, "converts": [], "tags": []})
        elif what == "commits":
            when = "2026-01-01T00:00:00.000Z"
            words = {"authors": [], "date": when, "title": "", "message": ""}
            self._json([{"id": commit, **words} for commit in hub.commits[repo]])
        else:
            self._json({})

    def _entries(self, repo: str, commit: str) -> list[dict[str, Any]]:
        hub, entries = self.server.hub, []
        for path, content in sorted(hub.commits[repo][commit].items()):
            size, name = hub.size(content), hub.file_hash(content)
            entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": name}
            if size >= hub.lfs_from:
                pointer = (
                    f"version https://git-lfs.github.com/spec/v1\noid sha256:{name}\nsize {size}\n"
                )
                entry["oid"] = git_hash(f"{pointer}\n".encode())
                entry["lfs"] = {"oid": name, "size": size, "pointerSize": len(pointer) + 1}
            entries.append(entry)
        return entries

    def _info(self, repo: str, commit: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
        hub = self.server.hub
        siblings = []
        for entry in entries:
            sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
            if lfs := entry.get("lfs"):
                sibling["lfs"] = {"sha256": lfs["oid"], **lfs}
            siblings.append(sibling)
        return {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "sha": commit,
            "private": repo in hub.private,
            "gated": "manual" if repo in hub.gated else False,
            "disabled": False,
            "tags": [f"license:{hub.licence}"],
            "cardData": {"license": hub.licence},
            "siblings": siblings,
        }

    def _tree(self, entries: list[dict[str, Any]], first: int) -> None:
        hub = self.server.hub
        last = first + hub.page
        headers = {}
        if last < len(entries):
            path = self.path.partition("?")[0]
            headers["Link"] = f'<{hub.url}{path}?recursive=true&cursor={last}>; rel="next"'
        self._json(entries[first:last], headers)

    def _resolve(self, repo: str, revision: str, path: str, fault: Fault | None) -> None:
        hub = self.server.hub
        if self._refused(repo, revision, content=True):
            return
        commit = hub.commit(repo, revision)
        content = hub.commits[repo][commit].get(path)
        if content is None:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._answer(404, b"", {**headers, "X-Repo-Commit": commit})
            return
        name, size = hub.file_hash(content), hub.size(content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{name}"'}
        if size < hub.lfs_from:
            self._content(content, fault, headers)
            return
        announced = size if fault is None or fault.length is None else fault.length
        linked = {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": str(announced)}
        self._answer(302, b"", {**headers, **linked, "Location": f"{hub.cdn}/{name}"})

    def _content(self, content: bytes | Path, fault: Fault | None, headers: dict[str, str]) -> None:
        if fault is not None and fault.content is not None:
            content = fault.content
        size = self.server.hub.size(content)
        first, last, status = 0, size, 200
        if match := _RANGE.fullmatch(self.asked.range):
            first = int(match[1])
            last = min(size, int(match[2]) + 1) if match[2] else size
            status = 206
            if first >= size:
                self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {first}-{last - 1}/{size}"
        announced = last - first if fault is None or fault.length is None else fault.length
        self._head(status, {**headers, "Accept-Ranges": "bytes"}, announced)
        if self.command != "HEAD":
            self._send(content, first, last, fault)

    def _send(self, content: bytes | Path, first: int, last: int, fault: Fault | None) -> None:
        cut = fault.cut_after if fault is not None else None
        end = last if cut is None else min(last, first + cut)
        if isinstance(content, Path) and fault is None:
            with content.open("rb") as stream:
                self.asked.sent = self.connection.sendfile(stream, first, end - first)
            return
        data = memoryview(content.read_bytes() if isinstance(content, Path) else content)
        start = first
        while start < end:
            rate = fault.bytes_per_s if fault is not None else 0.0  # it may change meanwhile
            part = data[start : min(end, start + (max(1, int(rate / 20)) if rate else _PIECE))]
            self.connection.sendall(part)
            self.asked.sent += len(part)
            start += len(part)
            if rate and self.server.hub.stopped.wait(len(part) / rate):
                break
        if end < last or (fault is not None and fault.length is not None):
            self.close_connection = True

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._answer(200, body, {"Content-Type": "application/json", **(headers or {})})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._head(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def wait_for(what: Any, timeout_s: float = 20.0) -> None:
    """Wait until a call gives something true.

    Raises:
        TimeoutError: it never did.
    """
    until = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > until:
            raise TimeoutError("did not happen in time")
        time.sleep(0.01)


def shard(size: int, seed: int = 0) -> bytes:
    """A whole safetensors file with one tensor of bytes that do not repeat."""
    entry = {f"w{seed}": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(entry).encode()
    return len(header).to_bytes(8, "little") + header + random.Random(seed).randbytes(size)


def model_files(shards: int = 2, size: int = 5000) -> dict[str, bytes]:
    """A model as the hub has it: two formats, and what a server needs besides the weights."""
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
    index = {"weight_map": {f"w{n}": name for n, name in enumerate(names)}}
    return {
        "config.json": b'{"architectures": ["X"]}',
        "tokenizer.json": b'{"version": "1.0"}' * 100,
        "chat_template.jinja": b"{{ messages }}",
        "LICENSE": b"Apache License\n",
        "sub/processing.py": b"class P: ...\n",
        "model.safetensors.index.json": json.dumps(index).encode(),
        "pytorch_model.bin": b"p" * size,
        "original/consolidated.00.pth": b"q" * size,
        **{name: shard(size, n) for n, name in enumerate(names)},
    }
