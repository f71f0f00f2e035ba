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
    "architecture": ExitCode.NOT_FOUND,
    "engine-flag": ExitCode.USAGE,
    "vllm-version": ExitCode.USAGE,
    "sbatch-refused": ExitCode.REFUSED,
    "slurm-unavailable": ExitCode.REFUSED,
    "slurm-output": ExitCode.REFUSED,
    "scancel-refused": ExitCode.REFUSED,
    "start-failed": ExitCode.START_FAILED,
    "timed-out": ExitCode.TIMED_OUT,
    "probe-failed": ExitCode.PROBE_FAILED,
    "interrupted": ExitCode.INTERRUPTED,
}


def exit_code(code: str) -> ExitCode:
    """The exit code for an error's code; 1 for those that have none of their own."""
    return EXIT_CODES.get(code, ExitCode.FAILED)


def show(error: HpcvlmError) -> None:
    """The sentence, the details, the remedy; one line each."""
    note(f"{paint('error:', 'red')} {error.sentence}")
    for line in error.details:
        note(f"  {line}")
    if error.remedy:
        note(f"{paint('try:', 'green')}   {error.remedy}")
