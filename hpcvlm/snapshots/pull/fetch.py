"""Fetches one blob: under huggingface_hub's lock, by its downloader, checked before it counts.

huggingface_hub 2.4.0 gives each download a file of its own, begins at the first byte when it is
asked again (file_download.py, `_download_to_tmp_and_move`), and compares sizes, not hashes. So its
two downloaders, `http_get` and `xet_get`, are called here with a file that is kept, and the content
is hashed as it comes. A blob gets its name only when its hash is that name.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol
from urllib.parse import urlsplit

from hpcvlm.errors import HpcvlmError
from hpcvlm.snapshots.model import ListedFile
from hpcvlm.snapshots.pull.hub_api import asked, may_pass
from hpcvlm.snapshots.pull.hub_errors import Hub, file_trouble, is_network, timeout_s, told
from hpcvlm.snapshots.pull.unfinished import clear_partials, give_up, own_partial

if TYPE_CHECKING:
    from huggingface_hub.file_download import HfFileMetadata

_SHA256_DIGITS = 64
_READ = 4 << 20
_HUB_HOSTS = frozenset({"huggingface.co", "hf.co"})
_ATTEMPTS = 5
_LONGEST_WAIT_S = 10.0


class StoppedError(Exception):
    """Somebody wants the download to end."""


class Source(NamedTuple):
    """Where files come from."""

    repo: str
    commit: str
    hub: Hub


class Place(NamedTuple):
    """Where files go.

    Attributes:
        folder: ``CACHE/models--OWNER--NAME``.
        file_mode: of blobs; None as the umask has it.
    """

    folder: Path
    file_mode: int | None = None

    @property
    def blobs(self) -> Path:
        """The folder of the blobs."""
        return self.folder / "blobs"

    @property
    def locks(self) -> Path:
        """Where huggingface_hub has its locks for the repository."""
        return self.folder.parent / ".locks" / self.folder.name


class Meter:
    """How far one blob is; read by others while it grows.

    Attributes:
        have: bytes on disk.
        received: bytes that came over the network, those in vain included.
        growing: a file whose size tells how far it is; None when `have` does.
        waiting: whether somebody else fetches the blob just now.
    """

    def __init__(self) -> None:
        self.have = 0
        self.received = 0
        self.growing: Path | None = None
        self.waiting = False

    def bytes_now(self) -> int:
        """Bytes on disk now."""
        if self.growing is None:
            return self.have
        try:
            status = self.growing.stat()
        except OSError:
            return self.have
        return min(status.st_size, status.st_blocks * 512)


class Hash(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes, /) -> None:
        """Go on with more content."""
        ...

    def hexdigest(self) -> str:
        """The hash, in hexadecimal digits."""
        ...


def hasher(hub_hash: str, size: int) -> Hash:
    """What gives the hub's hash of a content: SHA-256, or SHA-1 of a Git blob of that size."""
    if len(hub_hash) == _SHA256_DIGITS:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def is_whole(path: Path, size: int) -> bool:
    """Whether a file is there with that size."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def fetch_blob(
    wanted: ListedFile,
    source: Source,
    place: Place,
    meter: Meter,
    stop: threading.Event,
    *,
    force: bool = False,
) -> None:
    """Make a blob be there, whole and right.

    Args:
        wanted: path, size and hash.
        source: where from.
        place: where to.
        meter: is told how far it is.
        stop: ends the download when set; what has come is kept.
        force: fetch it though there is one; that one is replaced in one step.

    Raises:
        StoppedError: by `stop`.
        HpcvlmError: what `hub_errors.told` says, and ``content-wrong``.
    """
    blob = place.blobs / wanted.hub_hash
    try:
        with _locked(place.locks / f"{wanted.hub_hash}.lock", meter, stop):
            if not force and is_whole(blob, wanted.size):
                clear_partials(place.blobs, wanted)
                meter.have = wanted.size
                return
            try:
                partial = _checked_partial(wanted, source, place, meter, stop)
                partial.replace(blob)
            except BaseException:
                give_up(place.blobs, wanted)
                raise
            meter.have, meter.growing = wanted.size, None
    except OSError as error:
        raise file_trouble(error, error.filename or str(blob)) from None


def _checked_partial(
    wanted: ListedFile, source: Source, place: Place, meter: Meter, stop: threading.Event
) -> Path:
    """A file with the right content; what is wrong once is fetched once more from its beginning."""
    came = ""
    for _ in range(2):
        partial = own_partial(place.blobs, wanted, place.file_mode)
        came = _receive(partial, wanted, source, meter, stop)
        if came == wanted.hub_hash:
            return partial
        partial.unlink(missing_ok=True)
    raise HpcvlmError(
        "content-wrong",
        f"{wanted.path} of {source.repo}: {source.hub.endpoint} sent something else, twice: {came}",
        "nothing of it was kept; is a proxy or a mirror (HF_ENDPOINT) between here and the hub?",
        (f"its hash must be {wanted.hub_hash}",),
    )


def _receive(
    partial: Path, wanted: ListedFile, source: Source, meter: Meter, stop: threading.Event
) -> str:
    """Fetch what is missing of a file; gives the hash of the whole, or its wrong length."""
    from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repo, wanted.path, revision=source.commit, endpoint=source.hub.endpoint)
    failures = 0
    while True:
        before = partial.stat().st_size
        metadata = asked(
            lambda: get_hf_file_metadata(url, timeout=timeout_s(), endpoint=source.hub.endpoint),
            source.hub,
            source.repo,
            source.commit,
            wanted.path,
        )
        if metadata.size is not None and metadata.size != wanted.size:
            return f"{metadata.size} bytes instead of {wanted.size}"
        try:
            return _download(partial, wanted, metadata, url, meter, stop)
        except (StoppedError, HpcvlmError):
            raise
        except Exception as error:  # noqa: BLE001 - told() raises those that it does not know
            if type(error) is OSError and error.errno is None:
                # http_get's "Consistency check failed": fewer or more bytes than announced.
                return f"{partial.stat().st_size} bytes instead of {wanted.size}"
            if isinstance(error, OSError) and error.errno and not is_network(error):
                raise file_trouble(error, str(partial)) from None
            failures = 0 if partial.stat().st_size > before else failures + 1
            # http_get has asked six times by itself when the network is the trouble.
            if failures >= (2 if is_network(error) else _ATTEMPTS) or not may_pass(error):
                raise told(error, source.hub, source.repo, source.commit, wanted.path) from None
            if stop.wait(min(_LONGEST_WAIT_S, 0.5 * 2.0**failures)):
                raise StoppedError from None


def _download(
    partial: Path,
    wanted: ListedFile,
    metadata: HfFileMetadata,
    url: str,
    meter: Meter,
    stop: threading.Event,
) -> str:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    headers = build_hf_headers(library_name="hpcvlm")
    if _by_xet(metadata) and not partial.stat().st_size:
        # Whatever ails Xet, such as a chunk store that a firewall hides: the hub has HTTP, too.
        with suppress(Exception):
            return _download_by_xet(partial, wanted, metadata, headers, meter)
        if stop.is_set():
            raise StoppedError
    headers["Accept-Encoding"] = "identity"  # parts of a packed file would be of no use
    location = metadata.location
    if not _same_hub(url, location):
        headers.pop("authorization", None)  # the token is for the hub, not for its CDN
    with partial.open("r+b") as stream:
        sink = _Sink(stream, wanted, meter, stop)
        http_get(
            location,
            sink,  # type: ignore[arg-type]
            resume_size=sink.tell(),
            headers=headers,
            expected_size=wanted.size,
            displayed_filename=wanted.path,
        )
        return sink.digest()


def _download_by_xet(
    partial: Path,
    wanted: ListedFile,
    metadata: HfFileMetadata,
    headers: dict[str, str],
    meter: Meter,
) -> str:
    """By the hub's chunk store, which checks its chunks; the file is hashed all the same."""
    from huggingface_hub.file_download import xet_get

    meter.growing = partial
    try:
        xet_get(
            incomplete_path=partial,
            xet_file_data=metadata.xet_file_data,  # type: ignore[arg-type]
            headers=headers,
            expected_size=wanted.size,
            displayed_filename=wanted.path,
        )
    except BaseException:
        # Chunks come in any order: what is there is no beginning to go on from.
        os.truncate(partial, 0)
        raise
    finally:
        meter.growing = None
    meter.received += wanted.size
    with partial.open("rb") as stream:
        return _hash_of(stream, wanted).hexdigest()


def stop_xet() -> None:
    """End what Xet still downloads, which nobody waits for any more."""
    with suppress(ImportError):
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()  # type: ignore[no-untyped-call]


def _by_xet(metadata: HfFileMetadata) -> bool:
    from huggingface_hub.utils._runtime import is_xet_available

    return metadata.xet_file_data is not None and is_xet_available()


def _same_hub(asked_url: str, location: str) -> bool:
    here, there = urlsplit(asked_url), urlsplit(location)
    return here.netloc == there.netloc or (there.hostname or "") in _HUB_HOSTS


class _Sink:
    """A file as http_get writes to it, which hashes what it is given."""

    def __init__(
        self, stream: BinaryIO, wanted: ListedFile, meter: Meter, stop: threading.Event
    ) -> None:
        self._stream, self._wanted, self._meter, self._stop = stream, wanted, meter, stop
        self._restart()

    def _restart(self) -> None:
        self._stream.seek(0)
        self._hash = _hash_of(self._stream, self._wanted)
        self._meter.have = self._stream.tell()

    def write(self, data: bytes) -> int:
        if self._stop.is_set():
            raise StoppedError
        self._meter.received += len(data)
        self._meter.have += len(data)
        self._hash.update(data)
        return self._stream.write(data)

    def tell(self) -> int:
        return self._stream.tell()

    def flush(self) -> None:
        self._stream.flush()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def truncate(self, size: int | None = None) -> int:
        """The server began anew; so does the hash."""
        left = self._stream.truncate(size)
        self._restart()
        return left

    def digest(self) -> str:
        self._stream.flush()
        return self._hash.hexdigest()


def _hash_of(stream: BinaryIO, wanted: ListedFile) -> Hash:
    """Hash a stream to its end."""
    made = hasher(wanted.hub_hash, wanted.size)
    while data := stream.read(_READ):
        made.update(data)
    return made


@contextmanager
def _locked(path: Path, meter: Meter, stop: threading.Event) -> Iterator[None]:
    """Hold huggingface_hub's lock of a blob."""
    from filelock import Timeout
    from huggingface_hub.utils._fixes import WeakFileLock

    with ExitStack() as stack:
        while True:
            if stop.is_set():
                raise StoppedError
            try:
                stack.enter_context(WeakFileLock(path, timeout=0.5))
                break
            except Timeout:
                meter.waiting = True
        meter.waiting = False
        yield
