"""The smoke test of an endpoint that hpcvlm launched, or of any other."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from hpcvlm.endpoints.endpoint import Endpoint, is_reachable_here, read_key, same_machine
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.probe.model import CaseResult, ProbeReport, Target
from hpcvlm.submit.record import JobRecord


def target_of(record: JobRecord, endpoint: Endpoint) -> Target:
    """What the smoke test needs to know of one of our own endpoints."""
    media = Path(record.media_root)
    return Target(
        url=endpoint.url,
        key=read_key(Path(endpoint.key_file)),
        model=record.served_name,
        vision=record.vision,
        image_limit=record.image_limit if record.vision else 0,
        media_folder=media if media.is_dir() and os.access(media, os.W_OK) else None,
        same_host=_runs_here(record, endpoint),
        socket=None if endpoint.socket is None else Path(endpoint.socket),
    )


@contextmanager
def way_to(
    record: JobRecord, endpoint: Endpoint, ctx: Context, *, may_ask: bool = False
) -> Iterator[Endpoint]:
    """The endpoint with an address that means it on this machine, for as long as the block lasts.

    Args:
        record: of the job.
        endpoint: where it listens; on another machine's loopback or socket, a way is opened there.
        ctx: the outside world.
        may_ask: whether ssh may ask at the terminal.

    Raises:
        HpcvlmError: ``endpoint-elsewhere``: no way there could be opened.
    """
    if is_reachable_here(endpoint):
        yield endpoint
        return
    from hpcvlm.ops.connect import ConnectRequest, connected

    with ExitStack() as stack:
        try:
            request = ConnectRequest(record.name, may_ask=may_ask)
            connection = stack.enter_context(connected(request, ctx))
        except HpcvlmError as error:
            raise HpcvlmError(
                "endpoint-elsewhere",
                f"{record.name} listens on {endpoint.host} alone, and no way leads there from "
                f"here: {error.sentence}",
                f"srun --overlap --jobid {record.job_id} hpcvlm smoke-test {record.name}",
                error.details,
            ) from None
        yield replace(endpoint, url=connection.url, socket=None, listen="node", host="", port=None)


def foreign_target(url: str, key_file: Path | None, model: str | None) -> Target:
    """An endpoint that was not launched by hpcvlm.

    Raises:
        HpcvlmError: ``option-invalid`` when the URL is none; ``key-missing``,
            ``key-not-private``; ``probe-failed`` when its models cannot be listed.
    """
    from hpcvlm.probe.run import discover_model

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise HpcvlmError(
            "option-invalid", f"--url {url!r} is not an address", "for example http://node07:8000"
        )
    base = url.rstrip("/").removesuffix("/v1")
    key = read_key(key_file) if key_file is not None else None
    return Target(
        url=base,
        key=key,
        model=model or discover_model(base, key),
    )


def smoke_test(
    target: Target,
    *,
    image: str | None = None,
    require_naming: bool = True,
    seed: int | None = None,
    timeout_s: float = 120.0,
    on_result: Callable[[CaseResult], None] | None = None,
) -> ProbeReport:
    """Ask everything that proves that an endpoint can see."""
    from hpcvlm.probe.run import run_smoke_test

    return run_smoke_test(
        target,
        image=image,
        require_naming=require_naming,
        seed=seed,
        timeout_s=timeout_s,
        on_result=on_result,
    )


def _runs_here(record: JobRecord, endpoint: Endpoint) -> bool:
    """Whether the engine runs on this very machine, so that loopback reaches it both ways."""
    if record.executor == "local":
        return True
    host = endpoint.host or urlsplit(endpoint.url).hostname or ""
    return same_machine(host, socket.gethostname())
