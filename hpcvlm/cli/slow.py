"""Says that a Slurm command takes long, while it does."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from hpcvlm.cli.output import note
from hpcvlm.ops.context import Context
from hpcvlm.system.process import Completed, Runner

_LONG_S = 4.0


@dataclass(frozen=True, slots=True)
class Telling:
    """A runner that tells who has not answered yet."""

    runner: Runner

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float | None = 60.0,
        cwd: str | None = None,
    ) -> Completed:
        """Run a program to its end."""
        most = "" if timeout_s is None else f", and is given {timeout_s:g} s"
        text = f"{argv[0]} has not answered for {_LONG_S:g} s{most}"
        timer = threading.Timer(_LONG_S, note, (text,))
        timer.daemon = True
        with suppress(RuntimeError):  # no further thread can be started; then it is not told
            timer.start()
        try:
            return self.runner(argv, env=env, timeout_s=timeout_s, cwd=cwd)
        finally:
            timer.cancel()


def telling_context() -> Context:
    """The outside world of a command that says so when it has to wait for Slurm."""
    ctx = Context()
    return replace(ctx, runner=Telling(ctx.runner))
