"""Looks for secrets in everything that a run leaves or shows."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

# What may hold the key: 0600 in a 0700 folder. curl.conf is for the job's own questions,
# payloads/key for the engine's guard.
KEY_FILES = ("key", "curl.conf", "payloads/key")


def files_with(folder: Path, secret: str) -> set[str]:
    """The files below a folder that hold a secret, in their content or their name."""
    found = set()
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if secret in name or (path.is_file() and secret.encode() in path.read_bytes()):
            found.add(name)
    return found


class CommandLines:
    """Every command line on this machine that holds a secret, looked for all the time."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = [secret.encode() for secret in secrets]
        self.found: set[bytes] = set()
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                self.seen.add(line.partition(b"\0")[0])
                if any(secret in line for secret in self.secrets):
                    self.found.add(line)


def make_recorders(folder: Path, log: Path, names: Iterable[str], path: str) -> str:
    """Programs that note what they are given, then become the real ones; gives a PATH."""
    folder.mkdir()
    for name in names:
        wrapper = folder / name
        wrapper.write_text(
            "#!/bin/bash\n"
            f"PATH={path}\n"
            f"{{ printf '%s\\0' \"$0\" \"$@\"; command env -0; }} >>'{log}'\n"
            f'exec {name} "$@"\n'
        )
        wrapper.chmod(0o755)
    return f"{folder}:{path}"


def shown(texts: Mapping[str, str], secret: str) -> list[str]:
    """The names of the texts that hold a secret."""
    return [name for name, text in texts.items() if secret in text]
