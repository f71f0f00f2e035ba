"""Makes an image, here or as a Slurm job, and reads it once it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.containers.failures import cause, telling_lines
from hpcvlm.containers.model import Remembered
from hpcvlm.containers.order import host_of
from hpcvlm.containers.run import interruptible, run_logged
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_find import find_image, store_of
from hpcvlm.ops.containers_inspect import (
    Inspected,
    OnBytes,
    inspect_image,
    nothing_said,
    read_digest,
)
from hpcvlm.ops.containers_order import DEFINITION, LOG, RESULT, SCRIPT, Order, job_name
from hpcvlm.ops.context import Context
from hpcvlm.ops.site_files import site_of
from hpcvlm.system.files import make_private_folder, read_tail, read_text, write_atomically

_LOG_TAIL = 200_000
_WORDS_TAIL = 4096


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """What is going on.

    Attributes:
        where: ``here``, or the job in words.
        line: the last line of the log.
        log: the file.
    """

    where: str
    line: str
    log: str


OnProgress = Callable[[BuildProgress], None]


def make_image(
    made: Order,
    ctx: Context,
    on_progress: OnProgress = lambda _: None,
    on_bytes: OnBytes = nothing_said,
) -> Inspected:
    """Run a build to its end; afterwards the image is whole, or there is none.

    Args:
        made: as `make_order` gives it.
        ctx: the outside.
        on_progress: told what is going on, now and then.
        on_bytes: as for `inspect`, while the new image is read.

    Raises:
        HpcvlmError: ``container-exists``, ``container-space``, ``container-version``,
            ``container-build``, ``registry-refused``, ``registry-unreachable``, ``interrupted``;
            as of sbatch for a job. The log is named, and stays.
    """
    order, folder = made.order, Path(made.order.folder)
    try:
        make_private_folder(folder)
        Path(order.image).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SCRIPT, made.script, 0o700)
        if made.definition:
            write_atomically(folder / DEFINITION, made.definition)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        where = error.filename or folder
        raise HpcvlmError(
            "container-build", f"{where}: {error.strerror}", "name a folder that you may write"
        ) from None
    try:
        with interruptible():
            end = (
                _here(made, ctx, on_progress)
                if made.where == "here"
                else _job(made, ctx, on_progress)
            )
    except KeyboardInterrupt:
        left = _remove(Path(order.partial))
        raise HpcvlmError(
            "interrupted",
            f"interrupted; no image was made{left}",
            f"less {folder / LOG}",
        ) from None
    kind, _, words = (read_text(folder / RESULT) or "").rstrip("\n").partition("\t")
    if kind != "whole":
        left = _remove(Path(order.partial))
        raise _failure(made, kind, words, f"{end}{left}")
    return _read_it(made, ctx, on_bytes)


def _here(made: Order, ctx: Context, on_progress: OnProgress) -> str:
    folder = Path(made.order.folder)
    log = folder / LOG

    def tick() -> None:
        on_progress(BuildProgress("here", last_line(log), str(log)))

    argv = ("bash", str(folder / SCRIPT))
    code = run_logged(argv, log, ctx.environment, tick)
    return f"the build ended with exit code {code}"


def _job(made: Order, ctx: Context, on_progress: OnProgress) -> str:
    from hpcvlm.ops.containers_job import run_build_job

    log = Path(made.order.folder) / LOG

    def tick(words: str) -> None:
        on_progress(BuildProgress(words, last_line(log), str(log)))

    name = job_name(Path(made.order.image))
    return run_build_job(Path(made.order.folder), name, ctx, tick)


def last_line(log: Path) -> str:
    """The last line that a build has written."""
    lines = read_tail(log, _WORDS_TAIL).replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _read_it(made: Order, ctx: Context, on_bytes: OnBytes) -> Inspected:
    """The digest and the facts of the new image, remembered with where it is from."""
    site, _ = site_of(ctx)
    path, store = Path(made.order.image), store_of(ctx)
    key, digest = read_digest(path, on_bytes)
    with suppress(OSError):
        store.remember(Remembered(key, digest, ctx.clock.now(), made.source))
    return inspect_image(find_image(str(path), site, ctx), site, ctx, on_bytes)


def _remove(partial: Path) -> str:
    """What a build has left under its provisional name; empty when that is nothing."""
    with suppress(OSError):
        partial.unlink(missing_ok=True)
    return f"; {partial} is left" if partial.exists() else ""


def _failure(made: Order, kind: str, words: str, end: str) -> HpcvlmError:
    order = made.order
    log = Path(order.folder) / LOG
    lines = telling_lines(read_tail(log, _LOG_TAIL))
    see = f"less {log}"
    if kind == "space":
        return _no_space(words)
    own = {
        "exists": ("container-exists", words, "--force replaces it"),
        "version": (
            "container-version",
            f"{made.source} holds {order.engine} {words}, not {order.version}; no image was made",
            f"ask for {words}" if words else see,
        ),
        "unknown": ("container-facts", f"{made.source}: {words}; no image was made", see),
        "folder": ("container-build", words, "name a folder that you may write"),
        "module": ("container-build", words, see),
    }
    if kind in own:
        return HpcvlmError(*own[kind], () if kind == "exists" else lines)
    known = cause(lines, runtime=order.runtime, host=host_of(made.source))
    if known is not None:
        sentence = f"no image was made: {known.sentence}"
        return HpcvlmError(known.code, sentence, known.remedy, (*lines, f"log: {log}"))
    why = words if kind in {"build", "stopped"} else end
    return HpcvlmError("container-build", f"no image was made: {why}", see, lines)


def _no_space(words: str) -> HpcvlmError:
    key, folder, need, free = (*words.split("\t"), "", "", "", "")[:4]
    where = "image_folder:" if key == "image" else f"'{key}:' under 'images:'"
    return HpcvlmError(
        "container-space",
        f"{folder} has {_gigabytes(free)} free, and the build needs about {_gigabytes(need)} there",
        f"name a folder with space as {where} in the site file, or --no-space-check",
    )


def _gigabytes(count: str) -> str:
    return f"{int(count) / 10**9:.1f} GB" if count.isdigit() else "too little"
