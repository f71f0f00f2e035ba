"""What an audit of a store can find: how grave each is, in words, and the command that mends it.

In the commands PATH is the one file, SCOPE the folder around several, EXTRA what was found.
"""

from __future__ import annotations

import re
import shlex
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "note"]


class AuditFinding(NamedTuple):
    """One thing that is wrong, and how it is put right.

    Attributes:
        kind: a word for it that stays the same: ``world-writable``, ``link-out`` …
        path: the file or folder; the folder around them where there are several.
        what: what is wrong with it.
        remedy: a command to be typed, never run by hpcvlm; empty where a person has to decide.
        paths: every file and folder that it is about.
    """

    severity: Severity
    kind: str
    path: str
    what: str
    remedy: str
    paths: tuple[str, ...]


class _Kind(NamedTuple):
    severity: Severity
    what: str
    one: str = ""
    many: str = ""


def _mode(severity: Severity, what: str, found_by: str, command: str) -> _Kind:
    """What chmod mends; `find` names the same files for it."""
    return _Kind(severity, what, f"{command} PATH", f"find SCOPE {found_by} -exec {command} {{}} +")


_LINKS = r"find SCOPE -type l -printf '%p -> %l\n'"
_KINDS: dict[str, _Kind] = {
    "unreadable": _Kind("error", "cannot be looked at: EXTRA", "ls -ld PATH", "ls -lR SCOPE"),
    "no-folder": _Kind("error", "is no folder", "ls -ld PATH", "ls -l SCOPE"),
    "world-writable": _mode(
        "error", "may be changed by everybody", "! -type l -perm -o=w", "chmod o-w"
    ),
    "group-folder": _mode(
        "error", "a folder that the group cannot enter", "-type d ! -perm -g=rx", "chmod g+rx"
    ),
    "group-file": _mode(
        "error", "a file that the group cannot read", "-type f ! -perm -g=r", "chmod g+r"
    ),
    "world-folder": _mode(
        "error", "a folder that not everybody can enter", "-type d ! -perm -o=rx", "chmod a+rx"
    ),
    "world-file": _mode(
        "error", "a file that not everybody can read", "-type f ! -perm -o=r", "chmod a+r"
    ),
    "private": _mode(
        "error", "open to others, and meant to be private", "! -type l -perm /go=rwx", "chmod go="
    ),
    "group": _Kind(
        "error",
        "does not belong to the group EXTRA",
        "chgrp -h EXTRA PATH",
        "chgrp -R -h EXTRA SCOPE",
    ),
    "setgid": _mode(
        "warning",
        "a folder without the set-group-ID bit: what is put into it gets its author's group",
        "-type d ! -perm -g=s",
        "chmod g+s",
    ),
    "open": _Kind("warning", "everybody may enter, and the store is for a group", "chmod o= PATH"),
    "set-id": _mode("error", "a file with a set-ID bit", "-type f -perm /ug=s", "chmod ug-s"),
    "executable": _mode(
        "warning", "a file that may be executed", "-type f -perm /a=x", "chmod a-x"
    ),
    "special": _Kind(
        "error",
        "neither file, folder nor link",
        "ls -l PATH",
        "find SCOPE ! -type f ! -type d ! -type l -ls",
    ),
    "link-out": _Kind("error", "leads out of the store: EXTRA", "readlink -f PATH", _LINKS),
    "link-absolute": _Kind(
        "warning",
        "an absolute link, which breaks where the store is mounted elsewhere: EXTRA",
        "ln -sfnr EXTRA PATH",
        _LINKS,
    ),
    "link-astray": _Kind(
        "warning", "leads into another repository: EXTRA", "readlink -f PATH", _LINKS
    ),
    "link-broken": _Kind(
        "warning",
        "leads nowhere: EXTRA",
        "hpcvlm snapshots verify REPO --repair",
        "hpcvlm snapshots verify REPO --repair",
    ),
    "owners": _Kind("warning", "has more than one owner: EXTRA", "chown -R -h OWNER PATH"),
    "owner-unknown": _Kind(
        "warning",
        "belongs to user number EXTRA, whom this machine does not know",
        "chown -h OWNER PATH",
        "chown -R -h OWNER SCOPE",
    ),
    "hard-link": _Kind(
        "warning",
        "has EXTRA outside of the store, by which its content can be changed",
        "cp -p PATH PATH.copy && mv PATH.copy PATH",
        "find SCOPE -type f -links +1 -ls",
    ),
    "lock": _Kind(
        "warning",
        "a lock that only EXTRA may take: the downloads of others fail",
        "rm PATH",
        "find SCOPE -name '*.lock' ! -perm -g=w -delete",
    ),
    "unfinished": _Kind(
        "warning",
        "a download that nobody has gone on with for EXTRA",
        "hpcvlm snapshots pull REPO",
        "hpcvlm snapshots pull REPO",
    ),
    "pickle": _Kind("warning", "EXTRA: who loads it runs what its author put into it"),
    "pickle-disguised": _Kind(
        "error",
        "named as what cannot hold code, but EXTRA",
        "hpcvlm snapshots verify REPO",
        "hpcvlm snapshots verify REPO",
    ),
    "code": _Kind("note", "code of its own, which engines run with --trust-remote-code only"),
    "compiled": _Kind("warning", "compiled code, which no engine needs from a repository"),
}
# In one go: a value may look like a word.
_WORD = re.compile(r"\b(EXTRA|OWNER|REPO|PATH|SCOPE)\b((?:\.copy)?)")
_RANK = {"error": 0, "warning": 1, "note": 2}


def finding(
    kind: str, scope: str, found: list[tuple[str, str]], *, repo: str = "", owner: str = ""
) -> AuditFinding:
    """What was found of one kind in one folder, as one finding.

    Args:
        kind: a key of the table above.
        scope: the folder.
        found: path, and what is said with it; the first is the one that is told.
        repo: what SCOPE holds, for commands that take a repository.
        owner: name of the user whom the folder belongs to.
    """
    about = _KINDS[kind]
    first, extra = found[0]
    several = len(found) > 1
    what = about.what.replace("EXTRA", extra)
    if several:
        inside = next(path for path, _ in found if path != scope).removeprefix(f"{scope}/")
        what = f"{len(found)} of this kind, such as {inside}: {what}"
    remedy = about.many if several else about.one
    words = {"EXTRA": extra, "OWNER": owner, "REPO": repo, "PATH": first, "SCOPE": scope}
    if ("REPO" in remedy and not repo) or ("OWNER" in remedy and not owner):
        remedy = ""
    remedy = _WORD.sub(lambda match: shlex.quote(words[match[1]] + match[2]), remedy)
    paths = tuple(path for path, _ in found)
    return AuditFinding(about.severity, kind, scope if several else first, what, remedy, paths)


def concerns_folders(kind: str) -> bool:
    """Whether one command mends all of a kind, in whatever folder they lie."""
    many = _KINDS[kind].many
    return "SCOPE" in many and "OWNER" not in many


def by_gravity(findings: list[AuditFinding]) -> list[AuditFinding]:
    """Errors, warnings, notes; each by path."""
    return sorted(findings, key=lambda one: (_RANK[one.severity], one.path, one.kind))
