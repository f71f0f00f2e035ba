"""What Slurm calls its cluster.

Job numbers are unique in one cluster only, and a home folder is often shared by several: a cluster
that does not know a job says nothing of it where the job is another cluster's.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands
from hpcvlm.submit.adopt import ASK_TIMEOUT_S
from hpcvlm.system.process import Runner


def cluster_here(runner: Runner) -> str:
    """ClusterName of slurm.conf(5), as the controller says it; empty when it does not.

    Raises nothing: who cannot be asked is not known.
    """
    from hpcvlm.slurm.records import parse_scontrol_config

    environment = commands.query_environment(os.environ)
    try:
        done = runner(commands.scontrol_config(), env=environment, timeout_s=ASK_TIMEOUT_S)
        return parse_scontrol_config(done.code, done.stdout, done.stderr).get("ClusterName")
    except (HpcvlmError, OSError):
        return ""


class AskedMeanwhile:
    """Asks for the cluster's name while something else, such as sbatch, is waited for."""

    def __init__(self, runner: Runner) -> None:
        self._found, self._waited = "", False
        # A daemon, since a controller that does not answer must hold up nobody.
        self._thread = threading.Thread(target=self._ask, args=(runner,), daemon=True)
        with suppress(RuntimeError):  # a user may have only so many threads
            self._thread.start()

    def _ask(self, runner: Runner) -> None:
        self._found = cluster_here(runner)

    def name(self, wait_s: float = 2.0) -> str:
        """The name; empty when Slurm has not said it by then.

        Args:
            wait_s: seconds to wait for it yet, the first time.
        """
        with suppress(RuntimeError):  # never started
            self._thread.join(0 if self._waited else wait_s)
        self._waited = True
        return self._found
