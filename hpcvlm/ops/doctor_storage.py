"""Looks at folders: state, caches, home, weights, shared memory, temporary files."""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path

from hpcvlm.doctor import commands, mounts, storage
from hpcvlm.doctor.model import Check, Question
from hpcvlm.ops.caches import searched_caches
from hpcvlm.ops.doctor_containers import installs_of
from hpcvlm.ops.doctor_look import FOLDER_TIMEOUT_S, Look, ask, within
from hpcvlm.snapshots.hub import find_snapshot
from hpcvlm.system.files import read_text

PART = storage.PART
_HUB_TIMEOUT_S = 20.0
_TEST_BYTES = b"hpcvlm doctor\n" * 300


def look_at_storage(look: Look) -> list[Check]:
    """Every check of this part that is wanted."""
    state = look.ctx.settings.state
    checks = []
    if look.wants("state-writable", "state-space", "state-mode", "clock"):
        look.on_step(f"writing to {state}")
        seen = look_at_folder(state)
        checks += [
            storage.judge_writable(
                Question("state-writable", PART, "state folder"), str(state), seen, "HPCVLM_STATE"
            ),
            storage.judge_space(
                Question("state-space", PART, "room for state"),
                str(state),
                seen,
                storage.STATE_NEEDS,
            ),
            storage.judge_private(
                Question("state-mode", PART, "privacy of state"), str(state), seen, _umask()
            ),
            storage.judge_clock(Question("clock", PART, "clock"), seen),
        ]
    if look.wants("cache-writable", "cache-space"):
        cache = cache_root(look)
        look.on_step(f"writing to {cache}")
        seen = look_at_folder(cache)
        checks += [
            storage.judge_writable(
                Question("cache-writable", PART, "compile caches"),
                str(cache),
                seen,
                "cache_root: in site.yaml",
            ),
            storage.judge_space(
                Question("cache-space", PART, "room for caches"),
                str(cache),
                seen,
                storage.CACHE_NEEDS,
            ),
        ]
    if look.wants("home-quota"):
        checks.append(_quota(look))
    checks += _weights(look)
    return checks + _machine(look)


def cache_root(look: Look) -> Path:
    """Where compile caches go."""
    root = look.site.cache_root
    return Path(root).expanduser() if root else look.ctx.settings.state / "cache"


def weight_folders(look: Look) -> list[Path]:
    """The hub caches of the site and the user; not the one that is shipped."""
    return list(dict.fromkeys(searched_caches(look.site, look.ctx)))


def look_at_folder(path: Path) -> storage.FolderSeen:
    """Write, flush and remove a file in a folder, or in the nearest that is there."""
    seen = within(FOLDER_TIMEOUT_S, lambda: _try_folder(path))
    return seen or storage.FolderSeen(problem="its file system does not answer")


def _try_folder(path: Path) -> storage.FolderSeen:
    try:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        if not there.is_dir():
            return storage.FolderSeen(problem=f"{there} is not a folder")
        status = there.stat()
        begun = time.monotonic()
        offset = _write(there)
        seconds = time.monotonic() - begun
        room = os.statvfs(there)
    except OSError as error:
        return storage.FolderSeen(problem=error.strerror or str(error))
    exists = there == path
    return storage.FolderSeen(
        tried=str(there),
        seconds=seconds,
        free=room.f_bavail * room.f_frsize,
        inodes=room.f_favail if room.f_files else None,
        mode=status.st_mode if exists else None,
        owned=status.st_uid == os.geteuid() if exists else True,
        clock_offset=offset,
    )


def _write(folder: Path) -> float:
    """Write a file to the disk and remove it; seconds by which its time is ahead of ours."""
    descriptor, name = tempfile.mkstemp(prefix=".hpcvlm-doctor.", dir=folder)
    try:
        os.write(descriptor, _TEST_BYTES)
        os.fsync(descriptor)
        return os.fstat(descriptor).st_mtime - time.time()
    finally:
        os.close(descriptor)
        Path(name).unlink()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _mounts() -> list[mounts.Mount]:
    return mounts.parse_mountinfo(read_text(Path("/proc/self/mountinfo")) or "")


def _quota(look: Look) -> Check:
    question = Question("home-quota", PART, "home quota")
    environment = look.ctx.environment
    home = environment.get("HOME") or str(Path.home())
    mount = mounts.mount_of(str(Path(home).resolve()), _mounts())
    user = environment.get("USER") or str(os.geteuid())
    look.on_step("asking for the quota of the home folder")
    name, argv = "quota", commands.quota()
    if mount is not None and mount.type == "lustre":
        name, argv = "lfs", commands.lustre_quota(user, home)
    answers = [(name, ask(look.ctx, argv))]
    room = within(FOLDER_TIMEOUT_S, lambda: _free(home))
    return storage.judge_quota(question, home, answers, room[1] if room else None)


def _free(path: str) -> tuple[int, int] | None:
    """Bytes in all and free for the user."""
    try:
        room = os.statvfs(path)
    except OSError:
        return None
    return room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize


def _weights(look: Look) -> list[Check]:
    checks = []
    versions = [install.version for install in installs_of(look)]
    of_site = {str(Path(path).expanduser()) for path in look.site.hub_caches}
    for folder in weight_folders(look):
        path = str(folder)
        hub = Question(f"hub:{path}", PART, "hub cache")
        seen = None
        if look.request.wants(hub.id):
            look.on_step(f"looking through {path}")
            seen = look_through_hub(folder)
            checks.append(storage.judge_hub(hub, path, seen, of_site=path in of_site))
        kind = Question(f"filesystem:{path}", PART, "weights on")
        if look.request.wants(kind.id) and (seen is None or seen.exists):
            resolved = within(FOLDER_TIMEOUT_S, partial(_resolved, folder))
            mount = mounts.mount_of(resolved, _mounts()) if resolved else None
            checks.append(
                mounts.judge_weights_on(kind, path, mount.type, versions)
                if mount is not None
                else kind.unknown(f"{path}: no mount covers it")
            )
    return checks


def _resolved(folder: Path) -> str:
    return str(folder.resolve())


def look_through_hub(folder: Path) -> storage.HubSeen:
    """Every snapshot in a hub cache, as far as 20 s go."""
    until = time.monotonic() + _HUB_TIMEOUT_S
    seen = within(_HUB_TIMEOUT_S + FOLDER_TIMEOUT_S, lambda: _snapshots(folder, until))
    return seen or storage.HubSeen(problem="its file system does not answer")


def _snapshots(folder: Path, until: float) -> storage.HubSeen:
    whole: dict[str, None] = {}
    broken: dict[str, str] = {}
    left = 0
    try:
        if not folder.exists():
            return storage.HubSeen(exists=False)
        for repository in sorted(folder.glob("models--*")):
            repo = repository.name.removeprefix("models--").replace("--", "/", 1)
            for snapshot in sorted((repository / "snapshots").glob("*")):
                if time.monotonic() > until:
                    left += 1
                    continue
                found = find_snapshot(repo, snapshot.name, [folder])
                if found is None or not found.problems:
                    whole[repo] = None
                else:
                    broken.setdefault(repo, found.problems[0])
        if not os.access(folder, os.R_OK | os.X_OK):
            return storage.HubSeen(problem="it cannot be read")
    except OSError as error:
        return storage.HubSeen(problem=error.strerror or str(error))
    complete = tuple(repo for repo in whole if repo not in broken)
    return storage.HubSeen(whole=complete, broken=tuple(broken.items()), left=left)


def _machine(look: Look) -> list[Check]:
    checks = []
    if look.wants("shm"):
        total, free = _free("/dev/shm") or (None, None)  # noqa: S108 - what is looked at
        checks.append(storage.judge_shm(Question("shm", PART, "shared memory"), total, free))
    if look.wants("tmpdir"):
        named = look.ctx.environment.get("TMPDIR")
        path = named or "/tmp"  # noqa: S108 - what everybody's default is
        seen = look_at_folder(Path(path))
        there = Path(path).is_dir() and not seen.problem
        checks.append(
            storage.judge_scratch(
                Question("tmpdir", PART, "temporary files"),
                path,
                writable=there,
                free=seen.free,
                named="TMPDIR" if named else "default",
            )
        )
    return checks
