"""Asks the hub which commit a revision is, and which files it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hpcvlm.snapshots.model import ListedFile
from hpcvlm.snapshots.pull.hub_errors import (
    PASSING,
    Hub,
    is_network,
    offline,
    status_of,
    timeout_s,
    told,
    wait_asked_for,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder
    from tenacity import RetryCallState

T = TypeVar("T")
_ATTEMPTS = 4
_LONGEST_WAIT_S = 10.0
_BUSY = 429
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,39}")


@dataclass(frozen=True, slots=True, repr=False)
class HubCommit:
    """One commit of a repository, as the hub lists it.

    Attributes:
        revision: as it was asked for.
        commit: 40 hexadecimal digits.
        files: every file, sorted by path.
        licence: as the model card says it; empty where it does not.
    """

    repo: str
    revision: str
    commit: str
    files: tuple[ListedFile, ...]
    licence: str


def list_commit(repo: str, revision: str, hub: Hub) -> HubCommit:
    """The commit that a branch, tag, commit or its beginning is now, and its files.

    Raises:
        HpcvlmError: ``hub-offline``, ``hub-gated``, ``hub-repo-unknown``,
            ``hub-revision-unknown``, ``hub-token``, ``hub-busy``, ``hub-failed``,
            ``hub-unreachable``; the terms of a gated repository are checked, too.
    """
    if hub.offline:
        raise offline(hub, repo)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi(endpoint=hub.endpoint, library_name="hpcvlm")

    def look() -> HubCommit:
        try:
            return _look(api, repo, revision)
        except RevisionNotFoundError:
            if not _SHORT_COMMIT.fullmatch(revision):
                raise
            # The hub itself takes whole commits only.
            known = [c.commit_id for c in api.list_repo_commits(repo)]
            found = [commit for commit in known if commit.startswith(revision)]
            if len(found) != 1:
                raise
            return _look(api, repo, found[0])

    return asked(look, hub, repo, revision)


def list_files(repo: str, commit: str, paths: Sequence[str], hub: Hub) -> list[ListedFile]:
    """Some files of a commit, as the hub lists them; those that it does not have are left out.

    Raises:
        HpcvlmError: as `list_commit`.
    """
    if hub.offline:
        raise offline(hub, repo)
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint, library_name="hpcvlm")
    found = asked(lambda: api.get_paths_info(repo, list(paths), revision=commit), hub, repo, commit)
    return _listed(found)


def asked(call: Callable[[], T], hub: Hub, repo: str, revision: str, path: str = "") -> T:
    """What a call to the hub gives; asked again where that may help.

    Raises:
        HpcvlmError: as `hub_errors.told` says it.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    retrying = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=_wait,
        retry=retry_if_exception(may_pass),
        reraise=True,
    )
    try:
        return retrying(call)
    except Exception as error:  # noqa: BLE001 - told() raises those that it does not know
        raise told(error, hub, repo, revision, path) from None


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a moment."""
    if status_of(error) == _BUSY:
        seconds = wait_asked_for(error)
        return seconds is not None and seconds <= _LONGEST_WAIT_S
    return status_of(error) in PASSING or is_network(error)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    seconds = wait_asked_for(error) if error is not None else None
    if seconds is not None:
        return seconds
    return min(_LONGEST_WAIT_S, 0.5 * 2.0 ** (state.attempt_number - 1))


def _look(api: HfApi, repo: str, revision: str) -> HubCommit:
    info = api.model_info(repo, revision=revision, timeout=timeout_s())
    commit = info.sha or revision
    if info.gated:
        # Everybody may see the names of a gated repository's files; not their contents.
        api.auth_check(repo)
    tree = api.list_repo_tree(repo, recursive=True, revision=commit)
    files = tuple(sorted(_listed(tree)))
    licence = getattr(info.card_data, "license", None) if info.card_data else None
    return HubCommit(repo, revision, commit, files, str(licence or ""))


def _listed(tree: Iterable[RepoFile | RepoFolder]) -> list[ListedFile]:
    from huggingface_hub.hf_api import RepoFile

    return [
        ListedFile(file.path, file.lfs.size, file.lfs.sha256)
        if file.lfs
        else ListedFile(file.path, file.size, file.blob_id)
        for file in tree
        if isinstance(file, RepoFile)
    ]
