"""Job folders: made aside with all that is in them, then given their names in one step.

A folder that has its name is complete, its record included, so that whatever kills hpcvlm leaves
either no folder of that name or one that `hpcvlm ls` shows.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.render.model import RenderedJob
from hpcvlm.submit.record import RECORD_NAME, JobRecord, record_text
from hpcvlm.system.files import PRIVATE_FILE, make_private_folder, write_atomically

KEY_BYTES = 32
DRAFTS = "new"
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_GB = 1e9


class Draft(NamedTuple):
    """One job that is to be submitted, and the record of a submission that has no outcome yet."""

    plan: LaunchPlan
    job: RenderedJob
    record: JobRecord


def make_folders(drafts: Sequence[Draft], key: str | None = None) -> None:
    """Make the folders of all jobs of one endpoint, with one key; all of them or none.

    Args:
        drafts: the jobs.
        key: of the endpoint; a new one when None.

    Raises:
        HpcvlmError: ``name-taken`` or ``state-unwritable``; no folder is left then.
    """
    key = (key or secrets.token_urlsafe(KEY_BYTES)).strip() + "\n"
    aside: list[Path] = []
    named: list[Path] = []
    folder = Path(drafts[0].plan.folder)
    try:
        for draft in drafts:
            folder = Path(draft.plan.folder)
            aside.append(_aside(folder))
            _fill(aside[-1], draft, key)
        for draft, made in zip(drafts, aside, strict=True):
            folder = Path(draft.plan.folder)
            _name(made, folder)
            named.append(folder)
    except OSError as error:
        remove_folders((*aside, *named))
        raise _unwritable(folder, error) from None
    except BaseException:
        remove_folders((*aside, *named))
        raise


def remove_folders(folders: Sequence[Path]) -> None:
    """Remove folders of jobs that were never submitted."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """A new folder on the same file system, so that it can be given its name in one step."""
    make_private_folder(folder.parent, exist_ok=True)
    made = folder.parent.parent / DRAFTS / f"{folder.name}.{secrets.token_hex(4)}"
    make_private_folder(made)
    return made


def _fill(place: Path, draft: Draft, key: str) -> None:
    plan = draft.plan
    for file in draft.job.files:
        write_atomically(place / file.name, file.text, file.mode)
    write_atomically(place / "key", key, PRIVATE_FILE)
    # A successor sees that of the endpoint's first job.
    if plan.media_root_is_private and Path(plan.media_root).is_relative_to(plan.folder):
        make_private_folder(place / os.path.relpath(plan.media_root, plan.folder), exist_ok=True)
    write_atomically(place / RECORD_NAME, record_text(draft.record), PRIVATE_FILE)


def _name(made: Path, folder: Path) -> None:
    """rename(2) replaces no folder that has something in it; of two callers one succeeds."""
    try:
        if folder.exists():
            raise FileExistsError(errno.EEXIST, "exists", str(folder))
        made.rename(folder)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        raise HpcvlmError(
            "name-taken",
            f"there is an endpoint called {folder.name!r} already",
            f"hpcvlm status {folder.name}, or choose another --name",
        ) from None


def _unwritable(folder: Path, error: OSError) -> HpcvlmError:
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            free = f" ({shutil.disk_usage(folder.parent).free / _GB:.1f} GB are free there)"
    return HpcvlmError(
        "state-unwritable",
        f"cannot write the job folder {folder}: {error.strerror}{free}; nothing was submitted",
        "make room there, or set HPCVLM_STATE to a folder that login and compute nodes share"
        if free
        else "set HPCVLM_STATE to a folder that login and compute nodes share",
    )
