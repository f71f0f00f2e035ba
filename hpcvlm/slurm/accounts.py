"""What sacctmgr shows of a user: accounts, partitions and QOS that jobs may name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.commands import ASSOCIATION_FIELDS, QOS_FIELDS
from hpcvlm.slurm.parse import refuse_failed
from hpcvlm.slurm.time import parse_time_limit


@dataclass(frozen=True, slots=True)
class Association:
    """One row of the accounts: with this account a user may submit.

    Attributes:
        partition: the only one that the row is for; empty for every partition.
        qos: those that jobs may name.
        default_qos: empty where Slurm's own rule chooses.
    """

    cluster: str
    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default_qos: str = ""


@dataclass(frozen=True, slots=True)
class Qos:
    """One quality of service.

    Attributes:
        max_time_s: longest time of a job; None without a limit.
        max_tres_per_user: as Slurm writes it: ``gres/gpu=8,node=2``.
        flags: such as ``DenyOnLimit``.
    """

    name: str
    max_time_s: int | None = None
    max_tres_per_user: str = ""
    flags: tuple[str, ...] = ()


def parse_associations(code: int, stdout: str, stderr: str) -> tuple[Association, ...]:
    """The answer to `hpcvlm.slurm.commands.sacctmgr_associations`.

    Raises:
        HpcvlmError: ``slurm-unavailable``, also at a site without accounting, or ``slurm-output``.
    """
    refuse_failed("sacctmgr", code, stderr)
    return tuple(
        Association(
            cluster=row["cluster"],
            account=row["account"],
            partition=row["partition"],
            qos=_names(row["qos"]),
            default_qos=row["default_qos"],
        )
        for row in _rows(stdout, ASSOCIATION_FIELDS)
    )


def parse_qos(code: int, stdout: str, stderr: str) -> tuple[Qos, ...]:
    """The answer to `hpcvlm.slurm.commands.sacctmgr_qos`.

    Raises:
        HpcvlmError: as `parse_associations`.
    """
    refuse_failed("sacctmgr", code, stderr)
    return tuple(
        Qos(row["name"], _time(row["max_time"]), row["max_tres_per_user"], _names(row["flags"]))
        for row in _rows(stdout, QOS_FIELDS)
    )


def parse_default_account(code: int, stdout: str, stderr: str) -> str | None:
    """The answer to `hpcvlm.slurm.commands.sacctmgr_default_account`; None when there is none.

    Raises:
        HpcvlmError: as `parse_associations`.
    """
    refuse_failed("sacctmgr", code, stderr)
    lines = [line.strip() for line in stdout.splitlines() if line.strip()]
    return lines[0] if lines else None


def _rows(stdout: str, fields: Sequence[str]) -> Iterator[dict[str, str]]:
    for line in stdout.splitlines():
        if not line.strip():
            continue
        values = [value.strip() for value in line.split("|")]
        if len(values) != len(fields):
            raise HpcvlmError("slurm-output", f"sacctmgr gave a line that cannot be read: {line!r}")
        yield dict(zip(fields, values, strict=True))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _time(text: str) -> int | None:
    try:
        return parse_time_limit(text) if text else None
    except HpcvlmError:
        return None
