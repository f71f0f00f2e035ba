"""Looks at a snapshot in a SquashFS image: names, sizes, its index, and its own manifest.

As `hpcvlm.snapshots.verify.quick_look` does for a folder; but each file that is read costs a
process (unsquashfs), so that the headers of the shards are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.snapshots.manifest import is_hash
from hpcvlm.snapshots.squashfs import Runner, list_members, read_member
from hpcvlm.snapshots.verify.findings import Finding, one_each
from hpcvlm.snapshots.verify.quick_look import is_decoration
from hpcvlm.snapshots.verify.required_files import CONFIG, has_weights, needs_config
from hpcvlm.snapshots.verify.tensors import INDEX_ENDING, index_findings

if TYPE_CHECKING:
    from hpcvlm.snapshots.model import Manifest

_PREPROCESSOR = "preprocessor_config.json"
_ABSENT = "not in the image"


class ImageLook(NamedTuple):
    """What one look into an image gave.

    Attributes:
        sizes: bytes of each file, by path.
        config: its config.json; empty when it has none that can be read.
        preprocessor: its preprocessor_config.json; empty when it has none.
        manifest: that `hpcvlm snapshots export` wrote into it; None when it has none.
        problems: why it must not be served, one sentence a file; empty when it may.
    """

    sizes: dict[str, int]
    config: Mapping[str, object]
    preprocessor: Mapping[str, object]
    manifest: Manifest | None
    problems: tuple[str, ...]


def look_into_image(image: Path, runner: Runner) -> ImageLook:
    """Look into an image; nothing is mounted, and no weights are read.

    Raises:
        HpcvlmError: ``snapshot-image-unreadable``; ``archive-invalid`` where its manifest is
            damaged.
    """
    sizes = {file.path: file.size for file in list_members(image, runner)}
    found: list[Finding] = []

    def read(name: str) -> Mapping[str, object]:
        if name not in sizes:
            return {}
        try:
            data = json.loads(read_member(image, name, runner))
        except (ValueError, RecursionError):
            found.append(Finding(name, "json", "not valid JSON", stops=True))
            return {}
        return data if isinstance(data, dict) else {}

    config = read(CONFIG)
    if CONFIG not in sizes and needs_config(sizes.keys()):
        found.append(Finding(CONFIG, "missing", _ABSENT, stops=True))
    for name in sizes:
        if name.endswith(INDEX_ENDING) and "/" not in name:
            of_index = index_findings(name, read(name).get("weight_map"), sizes.keys(), {})
            found += (f._replace(text=_ABSENT) if f.stops else f for f in of_index)
    found += _weights(sizes)
    manifest = _manifest(image, sizes, runner)
    found += _against(manifest, sizes)
    problems = tuple(finding.sentence for finding in one_each(found) if finding.stops)
    return ImageLook(sizes, config, read(_PREPROCESSOR), manifest, problems)


def identity_problem(manifest: Manifest | None, repo: str, revision: str) -> str:
    """Why an image is not what a model's file says that it is; empty when it may be.

    Args:
        manifest: of the image.
        repo: of the model's file.
        revision: of the model's file; only a commit can be compared.
    """
    if manifest is None:
        return ""
    if manifest.repo.casefold() != repo.casefold():
        return f"it holds {manifest.repo}, the model's file says {repo}"
    if is_hash(revision, len(manifest.commit)) and revision != manifest.commit:
        return f"it holds commit {manifest.commit}, the model's file says {revision}"
    return ""


def _manifest(image: Path, sizes: Mapping[str, int], runner: Runner) -> Manifest | None:
    # What reads archives is loaded only where there is something to read.
    from hpcvlm.snapshots.archive.archived_manifest import (
        LARGEST_MANIFEST,
        MANIFEST_MEMBER,
        invalid,
        manifest_from,
    )

    if MANIFEST_MEMBER not in sizes:
        return None
    if sizes[MANIFEST_MEMBER] > LARGEST_MANIFEST:
        raise invalid(f"{image}: its manifest has {sizes[MANIFEST_MEMBER]:,} bytes")
    return manifest_from(read_member(image, MANIFEST_MEMBER, runner).encode())


def _against(manifest: Manifest | None, sizes: Mapping[str, int]) -> Iterator[Finding]:
    for name, kept in manifest.files.items() if manifest is not None else ():
        stops = not is_decoration(name)
        if name not in sizes:
            yield Finding(name, "missing", "in its manifest, not in the image", stops=stops)
        elif sizes[name] != kept.size:
            text = f"{sizes[name]:,} bytes in the image, {kept.size:,} in its manifest"
            yield Finding(name, "size", text, stops=stops)


def _weights(sizes: Mapping[str, int]) -> Iterator[Finding]:
    if not has_weights(sizes.keys()) and not any(name.endswith(INDEX_ENDING) for name in sizes):
        yield Finding("", "missing", "no weights: there is no .safetensors file in it", stops=True)
    for name, size in sizes.items():
        if not size and name.endswith(".safetensors"):
            yield Finding(name, "empty", "is empty", stops=True)
