"""Who may read what is put into a store: `site.store.access` and `site.store.group` as modes.

A store for a group is folders of mode 2750 and files of mode 0640: what is made in a folder with
the set-group-ID bit belongs to the folder's group, and folders inherit the bit (inode(7)). The
umask is set before the first byte is written, so that nothing is ever wider than it will be.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpcvlm.errors import HpcvlmError

_UMASKS = {"group": 0o027, "world": 0o022, "private": 0o077}


def store_umask(access: str) -> int:
    """The umask for `site.store.access`: 0027 for group, 0022 for world, 0077 for private."""
    return _UMASKS[access]


def folder_mode(access: str) -> int:
    """The mode of a store's folders: 2750, 2755 or 0700."""
    shared = 0 if access == "private" else stat.S_ISGID
    return shared | (0o777 & ~store_umask(access))


def file_mode(access: str) -> int:
    """The mode of a store's files: 0640, 0644 or 0600."""
    return 0o666 & ~store_umask(access)


@contextmanager
def store_permissions(access: str) -> Iterator[None]:
    """Within the block, whatever this process makes has the modes of the store.

    The umask belongs to the whole process, threads included: the block is for commands, not for
    something that runs beside others.
    """
    before = os.umask(store_umask(access))
    try:
        yield
    finally:
        os.umask(before)


def prepare_store_folder(path: Path, access: str, group: str | int | None) -> None:
    """Make a folder of a store, with its parents; one that exists is left as it is.

    Args:
        path: the folder, such as the hub cache or ``models--OWNER--NAME`` in it.
        access: `site.store.access`.
        group: `site.store.group`, or a group's number; None leaves the group that the kernel
            gives, which is the parent's where that has the set-group-ID bit.

    Raises:
        HpcvlmError: ``setting-invalid`` for a group that is unknown here; ``store-group`` for one
            that the user may not give; ``store-unwritable`` where the folder cannot be made.
    """
    wanted = group_number(group)
    try:
        missing = [folder for folder in (*reversed(path.parents), path) if not folder.exists()]
        with store_permissions(access):
            for folder in missing:
                _make(folder, access, wanted)
    except (FileExistsError, NotADirectoryError) as error:
        raise HpcvlmError(
            "store-unwritable", f"{path}: {error.filename} is no folder", "name another folder"
        ) from None
    except OSError as error:
        raise unwritable(path, error) from None
    if not path.is_dir():
        raise HpcvlmError(
            "store-unwritable", f"{path} is there, and no folder", "name another folder"
        )


def prepare_repository_folder(folder: Path, access: str, group: str | None) -> None:
    """Make ``CACHE/models--OWNER--NAME`` and the cache around it, where they are missing.

    Without a group of the site's, a new repository gets the group of its cache, where the user is
    in that group.

    Raises:
        HpcvlmError: as `prepare_store_folder`.
    """
    prepare_store_folder(folder.parent, access, group)
    is_new = not folder.exists()
    prepare_store_folder(folder, access, group)
    if group is None and is_new and access != "private":
        with suppress(OSError, HpcvlmError):
            _settle(folder, access, folder.parent.stat().st_gid)


def group_number(group: str | int | None) -> int | None:
    """The number of a group; None for None.

    Raises:
        HpcvlmError: ``setting-invalid`` for a name that no group has here.
    """
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise HpcvlmError(
            "setting-invalid",
            f"store.group: there is no group {group} on this machine",
            "correct store.group in the site file; id -Gn lists the groups that you are in",
        ) from None


def unwritable(path: Path, error: OSError) -> HpcvlmError:
    """What to tell where a store cannot be written to."""
    return HpcvlmError(
        "store-unwritable",
        f"{path}: {error.strerror or error}",
        "see who may write there with: ls -ld; --to CACHE or store.folder names another store",
    )


def _make(folder: Path, access: str, gid: int | None) -> None:
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():  # somebody else was faster
            return
        raise
    try:
        _settle(folder, access, gid)
    except (HpcvlmError, OSError):
        with suppress(OSError):
            folder.rmdir()
        raise


def _settle(folder: Path, access: str, gid: int | None) -> None:
    """Group and mode of a new folder.

    Nothing is set that is right already: chmod by somebody outside of the folder's group takes
    the set-group-ID bit away that the folder has inherited (chmod(2)).
    """
    status = folder.stat()
    if gid is not None and status.st_gid != gid:
        try:
            os.chown(folder, -1, gid)
        except PermissionError:
            raise HpcvlmError(
                "store-group",
                f"{folder}: you may not give it to the group {_group_name(gid)}",
                "be in that group (id -Gn), or name another one as store.group in the site file",
            ) from None
    if stat.S_IMODE(folder.stat().st_mode) != folder_mode(access):
        folder.chmod(folder_mode(access))


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
