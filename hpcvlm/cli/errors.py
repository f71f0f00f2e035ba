"""From an error's code to an exit code, and how errors are shown. The one table."""

from __future__ import annotations

from hpcvlm.cli.output import note, paint
from hpcvlm.errors import ExitCode, HpcvlmError

EXIT_CODES: dict[str, ExitCode] = {
    "file-invalid": ExitCode.USAGE,
    "file-unreadable": ExitCode.USAGE,
    "setting-invalid": ExitCode.USAGE,
    "gpus-invalid": ExitCode.USAGE,
    "time-invalid": ExitCode.USAGE,
    "name-invalid": ExitCode.USAGE,
    "option-invalid": ExitCode.USAGE,
    "value-unsafe": ExitCode.USAGE,
    "path-unsafe": ExitCode.USAGE,
    "tensor-parallel": ExitCode.USAGE,
    "nodes-unsupported": ExitCode.USAGE,
    "client-unknown": ExitCode.USAGE,
    "endpoint-ambiguous": ExitCode.USAGE,
    "endpoint-address": ExitCode.USAGE,
    "model-ambiguous": ExitCode.USAGE,
    "image-unreadable": ExitCode.USAGE,
    "option-required": ExitCode.USAGE,
    "media-root-refused": ExitCode.REFUSED,
    "model-unknown": ExitCode.NOT_FOUND,
    "variant-unknown": ExitCode.NOT_FOUND,
    "model-unsupported": ExitCode.REFUSED,
    "model-unknown-at-endpoint": ExitCode.NOT_FOUND,
    "endpoint-unknown": ExitCode.NOT_FOUND,
    "endpoint-not-ready": ExitCode.NOT_FOUND,
    "snapshot-missing": ExitCode.NOT_FOUND,
    "snapshot-broken": ExitCode.NOT_FOUND,
    "snapshot-not-approved": ExitCode.REFUSED,
    "snapshot-image-unreadable": ExitCode.USAGE,
    "snapshot-image-runtime": ExitCode.REFUSED,
    "archive-missing": ExitCode.NOT_FOUND,
    "archive-invalid": ExitCode.USAGE,
    "archive-exists": ExitCode.USAGE,
    "tool-missing": ExitCode.NOT_FOUND,
    "hub-gated": ExitCode.NOT_FOUND,
    "hub-token": ExitCode.NOT_FOUND,
    "hub-repo-unknown": ExitCode.NOT_FOUND,
    "hub-revision-unknown": ExitCode.NOT_FOUND,
    "hub-entry-unknown": ExitCode.NOT_FOUND,
    "pin-unknown": ExitCode.NOT_FOUND,
    "pin-ambiguous": ExitCode.USAGE,
    "pin-differs": ExitCode.REFUSED,
    "uses-unknown": ExitCode.REFUSED,
    "container-exists": ExitCode.USAGE,
    "container-unsupported": ExitCode.USAGE,
    "container-space": ExitCode.REFUSED,
    "container-unsigned": ExitCode.REFUSED,
    "container-unverified": ExitCode.REFUSED,
    "registry-refused": ExitCode.REFUSED,
    "container-missing": ExitCode.NOT_FOUND,
    "engine-missing": ExitCode.NOT_FOUND,
    "engine-version": ExitCode.NOT_FOUND,
    "image-missing": ExitCode.NOT_FOUND,
    "hub-refused": ExitCode.NOT_FOUND,
    "hub-unreachable": ExitCode.FAILED,
    "model-exists": ExitCode.USAGE,
    "key-missing": ExitCode.NOT_FOUND,
    "gpu-type-unknown": ExitCode.REFUSED,
    "gpu-count": ExitCode.REFUSED,
    "partition-unknown": ExitCode.REFUSED,
    "time-limit": ExitCode.REFUSED,
    "memory": ExitCode.REFUSED,
    "gpu-too-old": ExitCode.REFUSED,
    "architecture": ExitCode.NOT_FOUND,
    "engine-flag": ExitCode.USAGE,
    "vllm-version": ExitCode.USAGE,
    "sbatch-refused": ExitCode.REFUSED,
    "slurm-unavailable": ExitCode.REFUSED,
    "submission-unconfirmed": ExitCode.REFUSED,
    "endpoint-elsewhere": ExitCode.NOT_FOUND,
    "endpoint-over": ExitCode.NOT_FOUND,
    "port-taken": ExitCode.USAGE,
    "command-failed": ExitCode.USAGE,
    "ssh-refused": ExitCode.REFUSED,
    "key-refused": ExitCode.REFUSED,
    "extend-refused": ExitCode.REFUSED,
    "keep-unsupported": ExitCode.USAGE,
    "keep-jobs": ExitCode.REFUSED,
    "listen-unsupported": ExitCode.REFUSED,
    "remote-code": ExitCode.REFUSED,
    "unguarded": ExitCode.REFUSED,
    "record-unreadable": ExitCode.NOT_FOUND,
    "request-missing": ExitCode.NOT_FOUND,
    "package-missing": ExitCode.NOT_FOUND,
    "slurm-output": ExitCode.REFUSED,
    "scancel-refused": ExitCode.REFUSED,
    "start-failed": ExitCode.START_FAILED,
    "timed-out": ExitCode.TIMED_OUT,
    "key-not-taken": ExitCode.TIMED_OUT,
    "probe-failed": ExitCode.PROBE_FAILED,
    "interrupted": ExitCode.INTERRUPTED,
}


def exit_code(code: str) -> ExitCode:
    """The exit code for an error's code; 1 for those that have none of their own."""
    return EXIT_CODES.get(code, ExitCode.FAILED)


def no_process(error: Exception) -> HpcvlmError:
    """What to say where no further process or thread can be started; else the error is raised."""
    from hpcvlm.system.processes import exhausted

    if not exhausted(error):
        raise error
    return HpcvlmError(
        "processes-exhausted",
        f"this machine can start no further process or thread ({error})",
        "end some of yours (ps -u $USER); ulimit -u shows how many you may have",
    )


def show(error: HpcvlmError) -> None:
    """The sentence, the details, the remedy; one line each."""
    note(f"{paint('error:', 'red')} {error.sentence}")
    for line in error.details:
        note(f"  {line}")
    if error.remedy:
        note(f"{paint('try:', 'green')}   {error.remedy}")
