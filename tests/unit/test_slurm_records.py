"""scontrol's and sacctmgr's answers as values, and the commands that they answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm import commands
from hpcvlm.slurm.accounts import (
    Association,
    Qos,
    parse_associations,
    parse_default_account,
    parse_qos,
)
from hpcvlm.slurm.gres import Gres, gpus_of, parse_gres
from hpcvlm.slurm.records import (
    NodeRecord,
    SlurmConfig,
    parse_scontrol_nodes,
    parse_scontrol_partitions,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:4", [("gpu", "", 4)]),
        ("gpu", [("gpu", "", 1)]),
        ("gpu:A100", [("gpu", "A100", 1)]),
        ("gpu:A100:4(S:0,2,4)", [("gpu", "A100", 4)]),
        ("gpu:1g.5gb:2(IDX:0-1),nvme:1", [("gpu", "1g.5gb", 2), ("nvme", "", 1)]),
        ("craynetwork:4K", [("craynetwork", "", 4096)]),
        ("gpu:no_consume:4", [("gpu", "", 4)]),
        ("gpu:A100:0(IDX:N/A)", [("gpu", "A100", 0)]),
        ("gpu:a100:2,shard:a100:8(0/4,0/4)", [("gpu", "a100", 2), ("shard", "a100", 8)]),
        ("mygpu:4", [("mygpu", "", 4)]),
        ("gpu:2080ti:4", [("gpu", "2080ti", 4)]),
        ("(null)", []),
        ("", []),
    ],
)
def test_generic_resources(text: str, expected: list[tuple[str, str, int]]) -> None:
    assert parse_gres(text) == tuple(Gres(*one) for one in expected)


def test_gpus_in_use_are_read_where_they_are_shown() -> None:
    line = "NodeName=n1 CPUTot=8 Gres=gpu:A100:4 GresUsed=gpu:A100:3(IDX:0-2) State=MIXED"
    (node,) = parse_scontrol_nodes(0, line, "")
    assert gpus_of(node.gres_used) == {"A100": 3}


@pytest.mark.parametrize(
    ("words", "exclusive"),
    [
        ("OverSubscribe=EXCLUSIVE", True),
        ("OverSubscribe=NO Exclusive=NODE", True),
        ("OverSubscribe=NO Exclusive=USER", False),
        ("Shared=EXCLUSIVE", True),
        ("OverSubscribe=FORCE:4", False),
    ],
)
def test_partitions_that_give_whole_nodes(words: str, exclusive: bool) -> None:
    (record,) = parse_scontrol_partitions(0, f"PartitionName=gpu {words} State=UP", "")
    assert record.exclusive is exclusive


def test_memory_that_slurm_keeps_for_itself_is_not_shared() -> None:
    line = "NodeName=n1 CPUTot=8 RealMemory=64000 MemSpecLimit=4000 Gres=gpu:2 State=IDLE"
    (node,) = parse_scontrol_nodes(0, line, "")
    assert node.memory == 60000


@pytest.mark.parametrize(
    ("state", "usable"),
    [
        ("IDLE", True),
        ("MIXED+PLANNED", True),
        ("IDLE+CLOUD+POWERED_DOWN", True),
        ("ALLOCATED*", True),
        ("DOWN*", False),
        ("DOWN+NOT_RESPONDING", False),
        ("MIXED+DRAIN", False),
        ("IDLE*+DRAIN", False),
        ("INVAL", False),
        ("FUTURE", False),
    ],
)
def test_nodes_that_are_out_of_service(state: str, usable: bool) -> None:
    assert NodeRecord("n", state).usable is usable


@pytest.mark.parametrize(
    ("select", "parameters", "takes"),
    [
        ("select/cons_tres", "CR_CORE_MEMORY", True),
        ("", "", True),
        ("select/linear", "", False),
        ("select/cons_res", "CR_CPU", False),
        ("select/cray_aries", "CR_CORE_MEMORY,OTHER_CONS_TRES,NHC_NO", True),
        ("select/cray_aries", "CR_CORE_MEMORY", False),
    ],
)
def test_whether_gpus_per_node_is_taken(select: str, parameters: str, takes: bool) -> None:
    config = SlurmConfig({"SelectType": select, "SelectTypeParameters": parameters})
    assert config.gpus_per_node is takes


def test_associations() -> None:
    text = "north|physics||normal,gpu|normal\nsouth|physics|||\nnorth|chem|gpu|gpu|gpu\n"
    assert parse_associations(0, text, "") == (
        Association("north", "physics", "", ("normal", "gpu"), "normal"),
        Association("south", "physics"),
        Association("north", "chem", "gpu", ("gpu",), "gpu"),
    )


def test_the_command_lines() -> None:
    assert commands.scontrol_config() == ("scontrol", "show", "config")
    assert commands.scontrol_partitions() == (
        "scontrol", "--all", "--oneliner", "show", "partition",
    )  # fmt: skip
    assert commands.scontrol_nodes() == (
        "scontrol", "--all", "--details", "--oneliner", "show", "node",
    )  # fmt: skip
    quiet = ("sacctmgr", "--noheader", "--parsable2", "show")
    assert commands.sacctmgr_associations("ada") == (
        *quiet, "associations", "user=ada", "format=Cluster,Account,Partition,QOS,DefaultQOS",
    )  # fmt: skip
    assert commands.sacctmgr_default_account("ada") == (
        *quiet, "user", "ada", "format=DefaultAccount",
    )  # fmt: skip
    assert commands.sacctmgr_qos() == (*quiet, "qos", "format=Name,MaxWall,MaxTRESPU,Flags")
    for argv, fields in (
        (commands.sacctmgr_associations("ada"), commands.ASSOCIATION_FIELDS),
        (commands.sacctmgr_qos(), commands.QOS_FIELDS),
    ):
        assert argv[-1].count(",") + 1 == len(fields)


@pytest.mark.parametrize("parse", [parse_associations, parse_qos])
def test_accounts_in_another_form_are_an_error(parse: Callable[[int, str, str], object]) -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse(0, "a|b\n", "")
    assert caught.value.code == "slurm-output"
    with pytest.raises(HpcvlmError) as caught:
        parse(1, "", "sacctmgr: error: Slurm accounting storage is disabled")
    assert caught.value.code == "slurm-unavailable"


def test_quality_of_service() -> None:
    assert parse_qos(0, "gpu|1-00:00:00|gres/gpu=8|DenyOnLimit,X\nnormal|||\n", "") == (
        Qos("gpu", 86400, "gres/gpu=8", ("DenyOnLimit", "X")),
        Qos("normal"),
    )
    assert parse_default_account(0, "physics\n", "") == "physics"
    assert parse_default_account(0, "\n", "") is None


def test_records_in_another_form_are_an_error() -> None:
    with pytest.raises(HpcvlmError) as caught:
        parse_scontrol_nodes(0, "Node=x State=UP", "")
    assert caught.value.code == "slurm-output"
    assert parse_scontrol_nodes(0, "No nodes in the system\n", "") == ()
