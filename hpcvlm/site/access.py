"""Who may use a partition, by its own lists and the user's rows in the accounts."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.slurm.accounts import Association
from hpcvlm.slurm.records import PartitionRecord


def rows_for(record: PartitionRecord, rows: Sequence[Association]) -> tuple[Association, ...]:
    """The user's rows that hold for a partition: its own, or those for every partition."""
    return tuple(row for row in rows if row.partition in {"", record.name})


def allowed_accounts(
    record: PartitionRecord, rows: Sequence[Association]
) -> tuple[str, ...] | None:
    """The user's accounts that a partition takes; None where it takes all, or none are known.

    Account names are kept in small letters by the accounts' database (sacctmgr(1)).
    """
    mine = tuple(dict.fromkeys(row.account for row in rows_for(record, rows)))
    everywhere = {row.account for row in rows}
    limited = record.allow_accounts or record.deny_accounts or set(mine) != everywhere
    if not rows or not limited:
        return None
    allow = {name.lower() for name in record.allow_accounts}
    deny = {name.lower() for name in record.deny_accounts}
    return tuple(
        name
        for name in mine
        if (not allow or name.lower() in allow) and (bool(allow) or name.lower() not in deny)
    )


def allowed_qos(
    record: PartitionRecord, rows: Sequence[Association], account: str | None
) -> tuple[str, ...] | None:
    """The user's QOS that a partition takes; None where it takes all, or none are known."""
    mine = [
        name
        for row in rows_for(record, rows)
        if account is None or row.account == account
        for name in row.qos
    ]
    if not mine or not (record.allow_qos or record.deny_qos):
        return None
    return tuple(
        name
        for name in dict.fromkeys(mine)
        if (not record.allow_qos or name in record.allow_qos)
        and (bool(record.allow_qos) or name not in record.deny_qos)
    )


def no_access(record: PartitionRecord, rows: Sequence[Association], user: str) -> str:
    """Why a user's jobs cannot run in a partition; empty where nothing is against them."""
    if record.root_only:
        return "is for root alone (RootOnly=YES)"
    if record.hidden:
        return "is hidden (Hidden=YES)"
    accounts = allowed_accounts(record, rows)
    if accounts == ():
        wanted = _some(record.allow_accounts)
        told = f" (it takes {wanted})" if wanted else ""
        return f"takes none of {user or 'the user'}'s accounts{told}"
    if allowed_qos(record, rows, None) == ():
        wanted = _some(record.allow_qos)
        told = f" (it takes {wanted})" if wanted else ""
        return f"takes no QOS of {user or 'the user'}{told}"
    return ""


def _some(names: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
