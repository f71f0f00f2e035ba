"""Where vLLM's released source archives come from, and which of their members are kept."""

from __future__ import annotations

import hashlib
import html.parser
import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

OLDEST = Version("0.9.1")
DEFAULT_INDEX = "https://pypi.org/simple"
_SOURCE = re.compile(r"^vllm-(?P<version>\d+(?:\.\d+)+)\.tar\.gz$")
_WHEEL = re.compile(r"^vllm-(?P<version>\d+(?:\.\d+)+)-.*manylinux.*_x86_64\.whl$")
_KEPT = re.compile(
    r"""^(?:
        vllm/[^/]+\.py
      | vllm/(?:attention|config|engine|entrypoints|platforms|reasoning|renderers|tool_parsers
          |transformers_utils|utils|model_executor/models|v1/attention)/.*\.py
      | vllm/model_executor/(?:layers/quantization|model_loader)/__init__\.py
      | recipes/models/.*\.yaml
    )$""",
    re.VERBOSE,
)
# In the names of cached folders, so that none is taken that was unpacked by another pattern.
_LAYOUT = hashlib.sha256(_KEPT.pattern.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True)
class Archive:
    """One released archive: where it lies in the index, and its sha256 there.

    It is the source archive; for a release that has none (0.15.0, 0.15.1), the wheel, which holds
    the same Python files.
    """

    version: Version
    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name in the index."""
        return urllib.parse.unquote(self.url.rpartition("/")[2])


class _Links(html.parser.HTMLParser):
    """The links of a page of the simple index."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember the address of every link that has one."""
        address = dict(attrs).get("href")
        if tag == "a" and address:
            self.found.append(address)


def index_url() -> str:
    """The package index that pip is configured to use, else PyPI's."""
    if told := os.environ.get("PIP_INDEX_URL"):
        return told.rstrip("/")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (asked.stdout.strip() or DEFAULT_INDEX).rstrip("/")


def _open(url: str) -> http.client.HTTPResponse:
    if not url.startswith("https://"):
        sys.exit(f"{url}: the index must be an https address; set PIP_INDEX_URL")
    answer: http.client.HTTPResponse = urllib.request.urlopen(url, timeout=180)  # noqa: S310  # checked above
    return answer


def listed(oldest: Version = OLDEST) -> list[Archive]:
    """One archive of every release from `oldest` on, oldest first, as the index lists them."""
    page = f"{index_url()}/vllm/"
    links = _Links()
    links.feed(_open(page).read().decode())
    found: dict[Version, Archive] = {}
    for pattern in (_SOURCE, _WHEEL):
        for archive in _matching(page, links.found, pattern):
            if archive.version >= oldest:
                found.setdefault(archive.version, archive)
    return sorted(found.values(), key=lambda archive: archive.version)


def _matching(page: str, links: list[str], pattern: re.Pattern[str]) -> Iterator[Archive]:
    for link in links:
        url, _, fragment = urllib.parse.urljoin(page, link).partition("#")
        named = pattern.match(urllib.parse.unquote(url.rpartition("/")[2]))
        algorithm, _, digest = fragment.partition("=")
        if named and algorithm != "sha256":
            sys.exit(f"{page}: no sha256 for {named[0]}")
        if named:
            yield Archive(Version(named["version"]), url, digest)


def unpacked(archive: Archive, cache: Path) -> Path:
    """The folder with the kept members of one archive; fetched and checked if it is not there.

    The archive itself is not kept: the folder's name holds the sha256 that it was checked against.
    """
    folder = cache / f"{archive.version}-{archive.sha256[:16]}-{_LAYOUT}"
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    packed = partial / archive.name
    with _open(archive.url) as answer, packed.open("wb") as copy:
        shutil.copyfileobj(answer, copy)
    with packed.open("rb") as copy:
        digest = hashlib.file_digest(copy, "sha256").hexdigest()
    if digest != archive.sha256:
        sys.exit(f"{archive.url}: sha256 {digest}, the index says {archive.sha256}")
    if packed.suffix == ".whl":
        with zipfile.ZipFile(packed) as wheel:
            for name in filter(_KEPT.match, wheel.namelist()):
                wheel.extract(name, partial)
    else:
        _unpack_source(packed, partial)
    packed.unlink()
    partial.rename(folder)
    return folder


def _unpack_source(packed: Path, folder: Path) -> None:
    with tarfile.open(packed) as members:
        for member in members:
            _, _, inner = member.name.partition("/")
            if member.isfile() and _KEPT.match(inner):
                member.name = inner
                members.extract(member, folder, filter="data")
