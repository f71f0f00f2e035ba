"""Finds the images of a site, and the one that a user means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.containers.commands import APPTAINER_LIKE
from hpcvlm.containers.judge import SeenFile, same_release
from hpcvlm.containers.model import SifHeader
from hpcvlm.containers.sif import parse_sif
from hpcvlm.containers.store import ImageStore, read_head
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.site.schema import EngineInstall, SiteSpec

ENGINE = "vllm"
SUFFIX = ".sif"
_VERSION = re.compile(r"\d+(?:\.\d+)+[A-Za-z0-9.+_-]*")


@dataclass(frozen=True, slots=True)
class SiteImage:
    """One image, and what the site says of it.

    Attributes:
        said: version by the site file or the file's name; empty where nobody says one.
        image: path, or name where docker or podman keep it.
        install: how the engine is started in it.
        listed: whether the site file names it.
    """

    said: str
    image: str
    install: EngineInstall
    listed: bool

    @property
    def typed(self) -> str:
        """What a user types for it."""
        return (
            self.said if self.listed or self.image.endswith(f"-{self.said}{SUFFIX}") else self.image
        )


def store_of(ctx: Context) -> ImageStore:
    """Where it is kept what was read of images."""
    return ImageStore(ctx.settings.state / "images")


def image_folder(site: SiteSpec, ctx: Context) -> Path:
    """Where images without an entry in the site file lie."""
    return Path(site.image_folder or ctx.settings.state / "containers").expanduser().absolute()


def in_files(site: SiteSpec) -> bool:
    """Whether this site's images are files."""
    return site.runtime in {*APPTAINER_LIKE, "none"}


def site_images(site: SiteSpec, ctx: Context) -> list[SiteImage]:
    """The images of the site file, then those of the image folder."""
    found = [
        SiteImage(install.version, install.image, install, listed=True)
        for install in site.engines
        if install.image
    ]
    if not in_files(site):
        return found
    known = {Path(image.image) for image in found}
    folder = image_folder(site, ctx)
    try:
        files = sorted(folder.glob(f"{ENGINE}-*{SUFFIX}"))
    except OSError:
        files = []
    return [*found, *(_in_folder(file) for file in files if file not in known)]


def leftovers(site: SiteSpec, ctx: Context) -> list[Path]:
    """Unfinished images in the image folder."""
    try:
        return sorted(image_folder(site, ctx).glob(f"*{SUFFIX}.partial-*"))
    except OSError:
        return []


def find_image(text: str, site: SiteSpec, ctx: Context) -> SiteImage:
    """The image that a user means.

    Args:
        text: a version, a file, or the name of an image that docker or podman keep.
        site: the site.
        ctx: the outside.

    Raises:
        HpcvlmError: ``container-missing``.
    """
    images = site_images(site, ctx)
    for image in images:
        if text in {image.image, image.said} or Path(image.image).name == text:
            return image
    if not in_files(site):
        return SiteImage("", text, EngineInstall(version="0", image=text), listed=False)
    path = Path(text).expanduser().absolute()
    for image in images:
        if image.image == str(path):
            return image
    if "/" in text or text.endswith(SUFFIX) or path.exists():
        return _loose(path)
    is_version = _VERSION.fullmatch(text) is not None
    same = [image for image in images if is_version and same_release(image.said, text)]
    if same:
        return same[0]
    have = ", ".join(image.said for image in images) or "none"
    raise HpcvlmError(
        "container-missing",
        f"there is no image {text} here; known versions: {have}",
        f"hpcvlm containers build {text}" if is_version else "hpcvlm containers ls",
    )


def look_at(path: Path) -> tuple[SeenFile, SifHeader | None]:
    """What a file is, from its first blocks; never raises for what is wrong with it."""
    try:
        found = path.stat()
        if path.is_dir():
            return SeenFile(is_folder=True, mode=found.st_mode), None
        header = parse_sif(read_head(path))
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return SeenFile(problem=error.strerror or str(error), missing=missing), None
    end = header.end if header else 0
    return SeenFile("", False, found.st_size, found.st_mode, header is not None, False, end), header


def expanded(text: str, environment: Mapping[str, str]) -> Path:
    """A folder of the site file with its variables and ``~``."""
    path = re.sub(r"\$(\w+)", lambda match: environment.get(match[1], match[0]), text)
    return Path(path).expanduser().absolute()


def _in_folder(file: Path) -> SiteImage:
    version = file.name.removeprefix(f"{ENGINE}-").removesuffix(SUFFIX)
    install = EngineInstall(version=version, image=str(file))
    return SiteImage(version, str(file), install, listed=False)


def _loose(path: Path) -> SiteImage:
    said = path.name.removeprefix(f"{ENGINE}-").removesuffix(SUFFIX)
    said = said if _VERSION.fullmatch(said) else ""
    install = EngineInstall(version=said or "0", image=str(path))
    return SiteImage(said, str(path), install, listed=False)
