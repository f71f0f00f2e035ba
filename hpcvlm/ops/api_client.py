"""Questions to an endpoint from a program: over plain HTTP, or through the openai package."""

from __future__ import annotations

import base64
import importlib
import io
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from hpcvlm.endpoints.endpoint import Endpoint as Address
from hpcvlm.errors import HpcvlmError

if TYPE_CHECKING:
    import httpx

CHAT = "/v1/chat/completions"
_URLS = ("http://", "https://", "data:", "file://")
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
_OK = 200
# An endpoint that hands over or restarts: OpenAI's own clients try again in the same cases.
_AGAIN = (429, 502, 503, 504)
_ATTEMPTS = 6
_LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.5
_CONNECT_S = 10.0
_SHOWN = 400


class Savable(Protocol):
    """A picture of Pillow, as far as it is used here."""

    def save(self, fp: io.BytesIO, format: str | None = None) -> None:  # noqa: A002 - Pillow's own name
        """Write it to a file."""


class Find(Protocol):
    """Gives the address of an endpoint and its key."""

    def __call__(self, *, again: bool = False) -> tuple[Address, str]:
        """Looks for it anew where `again`, since what it gave before did not answer."""
        ...


class _TryAgainError(HpcvlmError):
    """A request that may be answered in a moment, or at another address."""

    def __init__(self, code: str, sentence: str, remedy: str = "", *, wait_s: float = 0.0) -> None:
        super().__init__(code, sentence, remedy)
        self.wait_s = wait_s


Picture = str | PathLike[str] | bytes | Savable


def messages(question: str, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    """One message of the user: the pictures, then the question.

    Raises:
        HpcvlmError: ``image-unreadable``.
    """
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture_url(picture)}} for picture in pictures
    ]
    content.append({"type": "text", "text": question})
    return [{"role": "user", "content": content}]


def picture_url(picture: Picture) -> str:
    """The address of a picture: as it was given, or its bytes as a ``data:`` address.

    Args:
        picture: a path, an ``http:``, ``https:``, ``data:`` or ``file:`` address that the engine
            reads itself, the bytes of a picture's file, or a picture of Pillow.

    Raises:
        HpcvlmError: ``image-unreadable``.
    """
    if isinstance(picture, str) and picture.startswith(_URLS):
        return picture
    if isinstance(picture, str | PathLike):
        path = Path(picture).expanduser()
        try:
            content = path.read_bytes()
        except OSError as error:
            raise HpcvlmError(
                "image-unreadable", f"cannot read the picture {path}: {error.strerror}"
            ) from None
        what = str(path)
    elif isinstance(picture, bytes | bytearray):
        content, what = bytes(picture), f"the picture of {len(picture)} bytes"
    elif hasattr(picture, "save"):
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        content, what = stream.getvalue(), "the picture"
    else:
        raise HpcvlmError(
            "image-unreadable",
            f"image is a {type(picture).__name__}",
            "a path, an address, bytes, or a picture of Pillow",
        )
    encoded = base64.b64encode(content).decode("ascii")
    return f"data:{_kind(content, what)};base64,{encoded}"


def _kind(content: bytes, what: str) -> str:
    for magic, kind in _MAGIC:
        if content.startswith(magic):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise HpcvlmError(
        "image-unreadable",
        f"{what} is no picture of a known kind",
        "PNG, JPEG, WebP, GIF, BMP or TIFF",
    )


def transport_options(address: Address) -> dict[str, Any]:
    """What an httpx client needs to reach the endpoint itself: no proxy, maybe a Unix socket."""
    import httpx

    options: dict[str, Any] = {"trust_env": False}
    if address.socket is not None:
        options["transport"] = httpx.HTTPTransport(uds=address.socket)
    return options


def async_transport_options(address: Address) -> dict[str, Any]:
    """The same for an asynchronous client."""
    import httpx

    options: dict[str, Any] = {"trust_env": False}
    if address.socket is not None:
        options["transport"] = httpx.AsyncHTTPTransport(uds=address.socket)
    return options


def chat(find: Find, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """One answer; asked for again, at the address of that moment, where the endpoint is moving.

    Args:
        find: gives the address and the key.
        body: of the request, without the model.
        timeout_s: for each attempt.

    Raises:
        HpcvlmError: ``request-refused`` with the engine's own words, or ``request-failed``.
    """
    pause = _FIRST_PAUSE_S
    for attempt in range(1, _ATTEMPTS):
        try:
            return _attempt(find, body, timeout_s, again=attempt > 1)
        except _TryAgainError as error:
            time.sleep(min(error.wait_s or pause, _LONGEST_PAUSE_S))
            pause = min(2 * pause, _LONGEST_PAUSE_S)
    return _attempt(find, body, timeout_s, again=True)


def _attempt(
    find: Find, body: Mapping[str, Any], timeout_s: float, *, again: bool
) -> dict[str, Any]:
    import httpx

    try:
        address, key = find(again=again)
    except HpcvlmError as error:
        if again and error.code == "endpoint-not-ready":
            raise _TryAgainError(error.code, error.sentence, error.remedy) from None
        raise
    remedy = f"hpcvlm status {address.name}"
    try:
        response = _post(address, key, body, timeout_s)
    except httpx.ReadTimeout:
        sentence = f"{address.name} gave no answer within {timeout_s:g} s"
        raise HpcvlmError("request-failed", sentence, remedy) from None
    except httpx.HTTPError as error:
        sentence = f"{address.name} cannot be reached: {error or type(error).__name__}"
        raise _TryAgainError("request-failed", sentence, remedy) from None
    if response.status_code == _OK:
        return _answer(response, address)
    words = _refusal(response, address, key)
    if response.status_code not in _AGAIN:
        raise HpcvlmError("request-refused", words)
    asked = response.headers.get("retry-after", "")
    raise _TryAgainError(
        "request-failed", words, remedy, wait_s=float(asked) if asked.isdigit() else 0.0
    )


def _post(address: Address, key: str, body: Mapping[str, Any], timeout_s: float) -> httpx.Response:
    import httpx

    limits = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S))
    with httpx.Client(timeout=limits, **transport_options(address)) as client:
        return client.post(
            f"{address.url}{CHAT}",
            json={"model": address.model, **body},
            headers={"Authorization": f"Bearer {key}"},
        )


def _answer(response: httpx.Response, address: Address) -> dict[str, Any]:
    try:
        data: dict[str, Any] = response.json()
        data["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise HpcvlmError(
            "request-failed",
            f"{address.name} answered with something else than a chat completion: "
            f"{response.text[:_SHOWN]!r}",
        ) from None
    return data


def _refusal(response: httpx.Response, address: Address, key: str) -> str:
    """The engine's own words, never the key."""
    try:
        error = response.json()
        said = str(error.get("error", {}).get("message") or error.get("message") or error)
    except (ValueError, AttributeError):
        said = response.text
    said = said.replace(key, "***")[:_SHOWN]
    return f"{address.name} answered {response.status_code}: {said}"


def openai_package() -> ModuleType:
    """The openai package.

    Raises:
        HpcvlmError: ``package-missing``.
    """
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise HpcvlmError(
            "package-missing",
            f"the openai package cannot be imported: {error}",
            "pip install openai, or use endpoint.ask(), which needs nothing else",
        ) from None
