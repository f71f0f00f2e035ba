"""The verdict in words."""

from __future__ import annotations

from hpcvlm.watch.model import Ended, Failed, Ready, Unknown, Verdict

# How a job ends in order: reasons of state.json, and what the scheduler says.
ENDS = {
    "stopped": "stopped",
    "drained": "drained",
    "handed-over": "handed over to its successor",
    "idle": "idle for as long as was allowed",
    "lease-lost": "the program that needed it is gone",
    "not-needed": "its predecessor had ended, since nobody needed it",
    "first-start-failed": "the endpoint's first job had failed at its start",
    "cancelled": "cancelled",
    "time-limit": "time limit reached",
    "completed": "its script ended in order",
}

FAILURES = {
    "engine-exited": "the engine ended",
    "engine-hung": "the engine did not answer any more",
    "restarts-used-up": "it was started again as often as was asked for",
    "start-timeout": "not ready within its start time",
    "not-locked": "it answered without the key",
    "model-not-listed": "/v1/models does not list the model",
    "text-not-answered": "it did not answer a text prompt",
    "image-not-answered": "it did not answer an image prompt",
    "image-not-taken-in": "the image did not reach the model",
    "snapshot-missing": "the snapshot cannot be read on the node",
    "image-missing": "the container image cannot be read on the node",
    "runtime-missing": "the container runtime is not on the node",
    "curl-missing": "there is no curl on the node",
    "module-missing": "an environment module could not be loaded",
    "media-root-missing": "the media root is no folder on the node",
    "cache-unwritable": "the cache folder cannot be written on the node",
    "folder-unwritable": "the job folder cannot be written on the node",
    "folder-gone": "the job folder is gone",
    "scratch-unwritable": "the node's folder for temporary files cannot be written",
    "script-broken": "its script broke off",
    "fork-failed": "no further process could be started on the node",
    "socket-path-too-long": "the path of its Unix socket is too long",
    "time-limit": "the time limit came before it was ready",
    "out-of-memory": "the node's memory for the job was used up",
    "node-failed": "the node failed",
    "preempted": "preempted",
    "vanished": "the scheduler forgot the job",
    "not-submitted": "the scheduler never took the job",
    "job-failed": "the job failed",
    "job-ended": "the job ended without a word",
}


def describe(verdict: Verdict) -> str:
    """A verdict in a few words."""
    if isinstance(verdict, Ready):
        return "ready"
    if isinstance(verdict, Failed):
        return f"failed ({FAILURES.get(verdict.reason, verdict.reason)})"
    if isinstance(verdict, Ended):
        return f"ended ({verdict.how})"
    if isinstance(verdict, Unknown):
        return f"unknown ({verdict.why})"
    return verdict.phase


def late_start(start_timeout_s: int, name: str) -> str:
    """What to know of a job that starts for longer than it should let itself."""
    allowed = (
        f"{start_timeout_s / 60:g} min" if start_timeout_s % 60 == 0 else f"{start_timeout_s} s"
    )
    return (
        f"its start takes longer than the {allowed} of start_timeout: it hangs, or was frozen for "
        f"a while; hpcvlm logs {name} shows what it did last"
    )
