"""The cluster as seen from a machine of its own: what the job folders and Slurm say."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hpcvlm.endpoints.endpoint import read_key
from hpcvlm.ops.context import Context
from hpcvlm.ops.endpoints import describe, status
from hpcvlm.reach.model import Sighting, Where

_T = TypeVar("_T")


class LocalCluster:
    """The cluster as seen from one of its own machines."""

    def __init__(self, name: str, ctx: Context) -> None:
        self._name = name
        self._ctx = ctx

    async def look(self) -> Sighting:
        """What the name means now."""
        return await _in_thread(self._look)

    async def key(self, where: Where) -> str:
        """The key, from its own file."""
        return read_key(Path(where.key_file))

    def _look(self) -> Sighting:
        row = status(self._name, self._ctx)
        endpoint = row.endpoint
        if endpoint is None:
            return Sighting(None, describe(row.verdict), row.is_over)
        where = Where(
            name=row.record.name,
            job_id=row.record.job_id,
            model=row.record.served_name,
            executor=row.record.executor,
            listen=endpoint.listen,
            host=endpoint.host,
            port=endpoint.port,
            socket=endpoint.socket,
            key_file=endpoint.key_file,
            ends=endpoint.ends,
            kept_until=row.record.keep_until,
        )
        return Sighting(where, describe(row.verdict))


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run something that blocks; unlike asyncio's own threads, it holds up nobody's end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - it is raised where it is waited for
            error = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await future
