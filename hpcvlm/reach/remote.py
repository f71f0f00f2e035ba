"""The cluster as seen from outside: every question goes through ssh to the login node."""

from __future__ import annotations

import shlex

from hpcvlm.errors import ExitCode, HpcvlmError
from hpcvlm.reach.model import Sighting, Where, check_wanted, parse_status
from hpcvlm.reach.ways import Login, ssh_error

_SSH_FAILED = 255
_NOT_FOUND = 127


class RemoteCluster:
    """Asks hpcvlm on the login node.

    Args:
        login: the connection to it.
        wanted: name, unique prefix or job id of the endpoint.
        command: what runs hpcvlm there: a command line of the user's, for the shell there.
    """

    def __init__(self, login: Login, wanted: str, command: str) -> None:
        self._login = login
        self._wanted = check_wanted(wanted)
        self._command = command

    async def look(self) -> Sighting:
        """What the name means now.

        Raises:
            HpcvlmError: ssh's troubles; ``endpoint-unknown`` or ``remote-failed`` with the words of
                the hpcvlm there.
        """
        words = f"{self._command} status --json {shlex.quote(self._wanted)}"
        return parse_status(await self._run(words))

    async def key(self, where: Where) -> str:
        """The key, read from its file on the cluster.

        Raises:
            HpcvlmError: ssh's troubles; ``key-missing``.
        """
        text = await self._run(f"cat -- {shlex.quote(where.key_file)}")
        lines = text.split()
        if not lines:
            raise HpcvlmError("key-missing", f"the key file {where.key_file} is empty")
        return lines[-1]  # a login shell may have greeted before

    async def _run(self, words: str) -> str:
        said = await self._login.run(words)
        if said.code == 0:
            return said.stdout
        host = self._login.host
        if said.code == _SSH_FAILED:
            raise ssh_error(said.stderr, host, self._login.via)
        if said.code == _NOT_FOUND:
            raise HpcvlmError(
                "remote-failed",
                f"there is no {self._command.split()[-1]} on {host} for a shell without a terminal",
                "--remote-command /path/to/hpcvlm",
                tuple(said.stderr.strip().splitlines()[-3:]),
            )
        error, remedy = _its_error(said.stderr)
        code = "endpoint-unknown" if said.code == ExitCode.NOT_FOUND else "remote-failed"
        raise HpcvlmError(code, f"{host} says: {error}", remedy)


def _its_error(text: str) -> tuple[str, str]:
    """Sentence and remedy of the hpcvlm there, as its command line prints them."""
    error = remedy = ""
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "error:":
            error = rest.strip()
        elif word == "try:":
            remedy = rest.strip()
    last = text.strip().splitlines()[-1:] or ["it failed without a word"]
    return error or last[0], remedy
