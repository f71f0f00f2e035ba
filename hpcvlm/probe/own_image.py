"""The picture that a user brings: an address for the engine, or a file for base64."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import httpx

from hpcvlm.errors import HpcvlmError

MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True, slots=True)
class OwnImage:
    """Exactly one of both: an http address, or the file's content as a data URL."""

    url: str | None = None
    data_url: str | None = None


def read_own_image(text: str) -> OwnImage:
    """What the user gave as ``--image``.

    Raises:
        HpcvlmError: the file is missing or no image, or the address is broken.
    """
    if text.startswith(("http://", "https://")):
        try:
            httpx.URL(text)
        except httpx.InvalidURL as error:
            raise HpcvlmError("image-address", f"{text} is no address: {error}") from None
        return OwnImage(url=text)
    try:
        content = Path(text).expanduser().read_bytes()
    except OSError as error:
        raise HpcvlmError(
            "image-unreadable",
            f"the image {text} cannot be read: {error.strerror}",
            "give a file, or an address that begins with http",
        ) from None
    return OwnImage(
        data_url=f"data:{_kind(text, content)};base64,{base64.b64encode(content).decode()}"
    )


def _kind(name: str, content: bytes) -> str:
    for magic, kind in MAGIC:
        if content.startswith(magic):
            return kind
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return "image/webp"
    raise HpcvlmError(
        "image-kind", f"{name} is no PNG, JPEG, WebP, GIF or BMP image", "convert it first"
    )
