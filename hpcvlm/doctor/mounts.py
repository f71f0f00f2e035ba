"""Which file system a folder lies on, and what that means for reading weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from hpcvlm.doctor.model import Check, Question

# vllm/model_executor/model_loader/weight_utils.py: from 0.19 it reads ahead by itself on these,
# and on no other, when the checkpoint fits into 90 % of the memory that is free.
_READS_AHEAD_ON = {"nfs", "nfs4", "lustre"}
_READS_AHEAD_FROM = Version("0.19")
_PREFETCH_FROM = Version("0.18")
_EAGER_FROM = Version("0.10.2")
# Reading a mapped file page by page is slow on these.
_PARALLEL = {
    "lustre": "Lustre",
    "nfs": "NFS",
    "nfs4": "NFS",
    "gpfs": "GPFS",
    "beegfs": "BeeGFS",
    "fhgfs": "BeeGFS",
    "wekafs": "WekaFS",
    "panfs": "PanFS",
    "pvfs2": "OrangeFS",
    "ceph": "CephFS",
    "afs": "AFS",
    "cifs": "SMB",
}
_MEMORY = {"tmpfs", "ramfs", "ramdisk"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    point: str
    type: str
    source: str


def parse_mountinfo(text: str) -> list[Mount]:
    """The mounts of /proc/self/mountinfo, in its order (proc_pid_mountinfo(5))."""
    mounts = []
    for line in text.splitlines():
        left, dash, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if dash and len(fields) > 4 and len(kinds) > 1:  # noqa: PLR2004 - see the man page
            mounts.append(Mount(_plain(fields[4]), kinds[0], _plain(kinds[1])))
    return mounts


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that a resolved path lies on: the longest that covers it, of those the last."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        covers = path == mount.point or path.startswith(f"{point}/")
        if covers and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def _plain(text: str) -> str:
    """Without mountinfo's octal escapes: a blank is a backslash and 040 there."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def judge_weights_on(question: Question, path: str, fstype: str, versions: Sequence[str]) -> Check:
    """How weights on a file system are best read, by the versions of vLLM that are installed.

    Args:
        question: what is answered.
        path: the folder that holds them.
        fstype: the file system's type, as the kernel names it.
        versions: of the site's vLLM installations.
    """
    name = _PARALLEL.get(fstype)
    if name is None:
        kind = "in memory" if fstype in _MEMORY else "as a local disk reads"
        return question.ok(f"{path} ({fstype}): {kind}; no option is needed")
    known = sorted(version for text in versions if (version := _version(text)) is not None)
    by_itself = [v for v in known if v >= _READS_AHEAD_FROM and fstype in _READS_AHEAD_ON]
    if known and len(by_itself) == len(known):
        return question.ok(
            f"{path} ({name}): vLLM 0.19 and newer reads ahead by itself when memory allows"
        )
    others = [version for version in known if version not in by_itself]
    option = _option(max(others, default=None))
    if option is None:
        return question.warning(
            f"{path} ({name}): vLLM {others[-1]} reads page by page, and has no option for that",
            "cat SNAPSHOT/*.safetensors >/dev/null before a launch, or a vLLM of 0.10.2 or newer",
        )
    who = f"vLLM {others[-1]}" if others else "vLLM"
    return question.warning(
        f"{path} ({name}): {who} does not read ahead by itself here, so that a start may be slow",
        f"--set options.safetensors-load-strategy={option}, or in the model's file",
    )


def _option(newest: Version | None) -> str | None:
    if newest is None or newest >= _PREFETCH_FROM:
        return "prefetch"
    return "eager" if newest >= _EAGER_FROM else None


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
