"""How a program reaches its endpoint: at its own address, or through a relay of this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpcvlm.endpoints.endpoint import Endpoint as Address
from hpcvlm.endpoints.endpoint import is_reachable_here
from hpcvlm.watch.state import read_state

if TYPE_CHECKING:
    from hpcvlm.ops.context import Context


class Way:
    """The way to one endpoint, found when it is first used and again when it has moved.

    Args:
        context: the outside.
        look: gives the endpoint's present address, or raises `HpcvlmError`.
    """

    def __init__(self, context: Context, look: Callable[[], Address]) -> None:
        self._ctx = context
        self._look = look
        self._address: Address | None = None
        self._relay: tuple[ExitStack, str] | None = None

    @property
    def is_known(self) -> bool:
        """Whether it was ready when it was last looked for."""
        return self._address is not None

    def learn(self, address: Address | None) -> None:
        """Take an address that was just seen; None to look anew."""
        self._address = address

    def find(self, name: str, *, for_any_client: bool = False) -> Address:
        """An address that works here, for as long as its job says that it serves there.

        Args:
            name: of the endpoint.
            for_any_client: whether it must be a host and a port; else it may be a Unix socket.

        Raises:
            HpcvlmError: ``endpoint-not-ready``, or what keeps the relay from the engine's node,
                such as ``ssh-failed``.
        """
        if self._address is not None:
            state = read_state(Path(self._address.key_file).parent)
            if state is None or state.phase != "ready":
                self._address = None
        address = self._address = self._address or self._look()
        if is_reachable_here(address) and not (for_any_client and address.socket):
            return address
        url = self._relayed(name)
        return replace(address, url=url, socket=None, listen="node", host="", port=None)

    def close(self) -> None:
        """End the relay, if there is one, and forget the address."""
        relay, self._relay, self._address = self._relay, None, None
        if relay is not None:
            relay[0].close()

    def _relayed(self, name: str) -> str:
        """The relay's address, which stays the same when the endpoint moves."""
        if self._relay is None:
            from hpcvlm.ops.connect import ConnectRequest, connected

            stack = ExitStack()
            connection = stack.enter_context(connected(ConnectRequest(name), self._ctx))
            self._relay = stack, connection.url
        return self._relay[1]
