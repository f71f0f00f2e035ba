"""What is read from the answers of other sites' Slurm, and the site file that is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.site.cluster import Cluster, Partition, parse_sinfo
from hpcvlm.site.discover import site_facts
from hpcvlm.site.facts import Answers, SiteFacts, Unanswered
from hpcvlm.site.gpu_names import size_feature
from hpcvlm.site.schema import GpuType, PartitionSpec
from hpcvlm.site.suggestions import missing
from hpcvlm.site.text import site_text
from hpcvlm.slurm.accounts import Association, Qos
from hpcvlm.slurm.gres import Gres
from hpcvlm.slurm.records import (
    NodeRecord,
    PartitionRecord,
    SlurmConfig,
    parse_scontrol_nodes,
    parse_scontrol_partitions,
)
from hpcvlm.yamlfile.text import parse
from tests.site_fixtures import (
    CONS_TRES,
    SITES,
    answers_of,
    captured,
    cluster_of,
    nodes_of_features,
    options,
    part,
    planned,
    site_issues,
    spec_of,
)


@pytest.mark.parametrize("path", sorted(SITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_capture_says_where_it_is_from_and_becomes_a_valid_file(path: Path) -> None:
    data: Any = parse(path.read_text(encoding="utf-8"), str(path))
    assert data["source"].startswith("https://github.com/")
    assert all(answer["command"] and answer["text"] for answer in data["answers"])
    if path.stem == "alliance":
        for answer in data["answers"]:
            nodes = nodes_of_features(answer["cluster"])
            assert spec_of(site_facts(Answers(cluster=cluster_of(nodes), nodes=nodes))).gpu_types
    else:
        assert spec_of(site_facts(answers_of(path.stem))).schema_version == 1


def test_typed_gpus_beside_mps_and_a_drained_node() -> None:
    facts = site_facts(answers_of("tum"))
    assert [(kind.name, kind.slurm_name, kind.nodes) for kind in facts.gpu_types] == [
        ("A100", "a100", 1),
        ("rtx_a6000", "rtx_a6000", 1),
        ("rtx_3090", "rtx_3090", 1),
        ("rtx_2080", "rtx_2080", 2),
        ("gtx_1080", "gtx_1080", 1),
    ]
    assert part(facts, "rtx_3090_submit").left_out == (
        "has GPUs, but all 1 nodes with them are out of service"
    )
    # gondor has 9 GPUs and moria 8: the fair share is that of the node which has least.
    mixed = part(facts, "rtx_2080_submit")
    assert mixed.gpus == (("rtx_2080", 9),)
    assert (mixed.cpus_per_gpu, mixed.memory_per_gpu) == (72 // 9, 742673 // 9)
    assert "GPUs are shared as gres/mps too; hpcvlm asks for whole GPUs only" in facts.notes
    spec = spec_of(facts)
    assert spec.gpu_types["A100"] == GpuType(slurm_name="a100")
    assert "rtx_3090_submit" not in spec.partitions
    assert "rtx_3090_submit, rtx_3090_interactive: has GPUs, but" in site_text(facts)


def test_untyped_gpus_are_picked_by_feature() -> None:
    answers = answers_of("lrz")
    facts = site_facts(answers)
    assert {kind.name: (kind.slurm_name, kind.memory) for kind in facts.gpu_types} == {
        "3g.40gb": ("3g.40gb", "40G"),
        "2g.20gb": ("2g.20gb", "20G"),
        "1g.10gb": ("1g.10gb", "10G"),
        "A100": (None, "80G"),
        "V100": (None, "16G"),
        "H100": (None, "92G"),
    }
    # Most types have a name in Slurm, so those that have none say for themselves how they are
    # asked for.
    spec = spec_of(facts)
    assert spec.gpu_request == "gpus-per-node"
    assert spec.gpu_types["V100"] == GpuType(
        request="constraint", constraint="V100-16GB", memory="16G"
    )
    assert part(facts, "lrz-cpu").left_out == "has no GPUs"
    assert part(facts, "lrz-hgx-a100-80x4").left_out.endswith("are out of service")
    dgx = part(facts, "lrz-dgx-a100-80x8")
    # CPUEfctv, not CPUTot: four hardware threads are the system's own.
    assert (dgx.cpus, dgx.cpus_per_gpu, dgx.memory_per_gpu) == (252, 31, 1997824 // 8)
    result = planned(facts, answers.cluster, "V100:2", "lrz-v100x2")
    assert site_issues(result) == []
    asked = options(result.plan)
    assert (asked["gpus-per-node"], asked["constraint"]) == ("2", "V100-16GB")
    assert (asked["cpus-per-task"], asked["mem-per-gpu"]) == ("18", "165G")


def test_mig_slices_of_one_node() -> None:
    answers = answers_of("lrz")
    facts = site_facts(answers)
    mig = part(facts, "mcml-hgx-a100-80x4-mig")
    assert mig.gpus == (("3g.40gb", 4), ("2g.20gb", 4), ("1g.10gb", 8))
    assert (mig.cpus_per_gpu, mig.memory_per_gpu) == (88 // 16, 515600 // 16)
    result = planned(facts, answers.cluster, "3g.40gb:1", mig.name)
    assert site_issues(result) == []
    assert options(result.plan)["gpus-per-node"] == "3g.40gb:1"


@pytest.mark.parametrize(
    ("cluster", "names"),
    [
        (
            "rorqual",
            {
                "H100": ("h100", None),
                "H100-3g.40gb": ("nvidia_h100_80gb_hbm3_3g.40gb", "40G"),
                "H100-2g.20gb": ("nvidia_h100_80gb_hbm3_2g.20gb", "20G"),
                "H100-1g.10gb": ("nvidia_h100_80gb_hbm3_1g.10gb", "10G"),
            },
        ),
        (
            "narval",
            {
                "A100-3g.20gb": ("a100_3g.20gb", "20G"),
                "A100-4g.20gb": ("a100_4g.20gb", "20G"),
                "A100-2g.10gb": ("a100_2g.10gb", "10G"),
                "A100-1g.5gb": ("a100_1g.5gb", "5G"),
                "A100": ("a100", None),
            },
        ),
        (
            "mila",
            {
                "a6000": ("a6000", None),
                "A100": ("a100", None),
                "a100l": ("a100l", None),
                "H100": ("h100", None),
                "L40S": ("l40s", None),
                "rtx8000": ("rtx8000", None),
                "V100": ("v100", None),
            },
        ),
        ("tamia", {"H100": ("h100", None), "H200": ("h200", None)}),
    ],
)
def test_several_types_in_one_partition(
    cluster: str, names: dict[str, tuple[str, str | None]]
) -> None:
    nodes = nodes_of_features(cluster)
    answers = Answers(cluster=cluster_of(nodes), nodes=nodes)
    facts = site_facts(answers)
    assert {k.name: (k.slurm_name, k.memory) for k in facts.gpu_types} == names
    assert {name for name, _ in part(facts, "all").gpus} == names.keys()
    assert facts.gpu_request == "gpus-per-node"
    for name, (slurm_name, _) in names.items():
        result = planned(facts, answers.cluster, f"{name}:1", "all")
        assert site_issues(result) == [], name
        assert options(result.plan)["gpus-per-node"] == f"{slurm_name}:1"


def test_a_feature_that_is_a_size_is_a_hint_and_no_fact() -> None:
    nodes = nodes_of_features("mila")
    facts = site_facts(Answers(cluster=cluster_of(nodes), nodes=nodes))
    assert {kind.name: kind.hint for kind in facts.gpu_types}["a100l"] == "80gb"
    text = site_text(facts)
    assert "    # the nodes have the feature 80gb; if it means the GPU:\n    # memory: 80G" in text
    assert spec_of(facts).gpu_types["a100l"].memory is None
    assert size_feature([("40gb", "x"), ("80gb",)]) is None
    assert size_feature([]) is None


def test_a_partition_with_defaults_of_its_own() -> None:
    (record,) = parse_scontrol_partitions(0, captured("dsai")[0]["text"], "")
    assert record == PartitionRecord(
        name="h100",
        time_limit_s=3 * 86400,
        def_cpu_per_gpu=32,
        max_cpus_per_node=128,
        max_mem_per_cpu=12000,
        preempt_mode="REQUEUE",
        nodes="h[01-16]",
        node_count=16,
        gpus=64,
    )
    facts = site_facts(Answers(partitions=(record,)))
    assert part(facts, "h100").left_out == (
        "has 64 GPUs, but its nodes were not shown: add it by hand"
    )
    node = NodeRecord("h01", "IDLE", 128, 1_547_000, partitions=("h100",), gpus={"h100": 4})
    preempting = SlurmConfig({**CONS_TRES.values, "PreemptType": "preempt/partition_prio"})
    facts = site_facts(Answers(partitions=(record,), nodes=(node,), config=preempting))
    found = part(facts, "h100")
    # Slurm gives the CPUs by itself; of memory 12000 MB go with each of these.
    assert (found.left_out, found.cpus_per_gpu, found.memory_per_gpu) == ("", None, 32 * 12000)
    assert "Slurm gives 32 CPUs for each GPU (DefCpuPerGPU)" in found.notes
    assert any("PreemptMode=REQUEUE" in note for note in found.notes)
    assert spec_of(facts).partitions["h100"] == PartitionSpec(
        gpus={"H100": 4}, memory_per_gpu="375G"
    )


def test_a_dynamic_node_with_json_in_its_comment() -> None:
    (node,) = parse_scontrol_nodes(0, captured("slinky")[0]["text"], "")
    assert node == NodeRecord(
        name="esc8000a-1",
        state="IDLE+DYNAMIC_NORM",
        cpus=11,
        memory=245760,
        gres=(Gres("gpu", "a40", 1),),
        features=("esc8000a", "a40"),
        partitions=("tn",),
        gpus={"a40": 1},
    )
    assert node.usable


def test_a_drained_node_s_reason_is_its_own_and_a_memory_that_nobody_set_is_not_shared() -> None:
    answers = answers_of("drained")
    (node,) = answers.nodes or ()
    assert (node.usable, node.memory, node.gpus) == (False, 1, {"nvidia-rtx-3090": 1})
    facts = site_facts(replace(answers, nodes=(replace(node, state="IDLE"),)))
    assert part(facts, "compute100").memory_per_gpu is None
    assert spec_of(facts).partitions["compute100"].memory_per_gpu is None


def test_a_cluster_without_accounts() -> None:
    facts = site_facts(answers_of("siena"))
    assert facts.accounting is False
    assert facts.notes == (
        "no accounts are kept here (AccountingStorageType); account and qos have no effect",
    )
    assert "account:" not in site_text(facts)
    null = SlurmConfig({"AccountingStorageType": "(null)"})
    assert not null.accounting


def test_a_very_old_slurm_with_whole_nodes() -> None:
    answers = answers_of("arc")
    facts = site_facts(answers)
    assert (facts.version, facts.accounting, facts.gpu_request) == ("2.3.2", False, "gres")
    assert "SelectType=select/linear: --gpus-per-node needs select/cons_tres" in site_text(facts)
    assert any(note.startswith("ProctrackType=pgid") for note in facts.notes)
    node = NodeRecord("n1", "IDLE", 8, 64000, partitions=("q",), gpus={"v100": 2})
    facts = site_facts(replace(answers, nodes=(node,), cluster=cluster_of((node,))))
    result = planned(facts, cluster_of((node,)), "V100:2", "q")
    assert site_issues(result) == []
    assert options(result.plan)["gres"] == "gpu:v100:2"
    # --mem-per-gpu is for cons_tres too.
    assert "mem-per-gpu" not in options(result.plan)


# ---- Partitions that a user can and cannot use --------------------------------------------------

NODE = NodeRecord("g1", "IDLE", 64, 512_000, partitions=("gpu",), gpus={"A100": 4})
SEEN = Partition("gpu", True, True, 86400, (("A100", 4),), 1, 64, 512_000)
MINE = (
    Association("north", "physics", "", ("normal", "gpu"), "normal"),
    Association("north", "chem", "", ("normal",), "normal"),
    Association("south", "elsewhere", "", ("normal",), "normal"),
)


def facts_with(record: PartitionRecord, **answers: Any) -> SiteFacts:
    given: dict[str, Any] = {
        "cluster": Cluster((replace(SEEN, name=record.name),)),
        "config": CONS_TRES,
        "partitions": (record,),
        "nodes": (replace(NODE, partitions=(record.name,)),),
        "associations": MINE,
        "default_account": "chem",
        "user": "me",
    }
    return site_facts(Answers(**{**given, **answers}))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (PartitionRecord("gpu", state="DOWN"), "is DOWN"),
        (PartitionRecord("gpu", state="INACTIVE"), "is INACTIVE"),
        (PartitionRecord("gpu", hidden=True), "is hidden (Hidden=YES)"),
        (PartitionRecord("gpu", root_only=True), "is for root alone (RootOnly=YES)"),
        (
            PartitionRecord("gpu", allow_accounts=("astro",)),
            "takes none of me's accounts (it takes astro)",
        ),
        (
            PartitionRecord("gpu", deny_accounts=("Physics", "chem")),
            "takes none of me's accounts",
        ),
        (PartitionRecord("gpu", allow_qos=("vip",)), "takes no QOS of me (it takes vip)"),
        (PartitionRecord("gpu", allow_accounts=("Physics",)), ""),
        (PartitionRecord("gpu", allow_qos=("gpu",)), ""),
        (PartitionRecord("gpu"), ""),
    ],
)
def test_partitions_that_are_left_out(record: PartitionRecord, reason: str) -> None:
    facts = facts_with(record)
    assert part(facts, "gpu").left_out == reason
    text = site_text(facts)
    assert ("gpu" in spec_of(facts).partitions) is not bool(reason)
    if reason:
        assert f"# gpu: {reason}" in text
        assert facts.partition is None


def test_a_partition_that_only_scontrol_shows_is_left_out() -> None:
    facts = facts_with(PartitionRecord("gpu"), cluster=Cluster(()))
    assert part(facts, "gpu").left_out == "is not shown to you by sinfo"


def test_the_account_and_qos_that_a_partition_needs() -> None:
    record = PartitionRecord("gpu", allow_accounts=("physics",), allow_qos=("gpu",))
    spec = spec_of(facts_with(record))
    assert (spec.partitions["gpu"].account, spec.partitions["gpu"].qos) == ("physics", "gpu")
    # The default ones are Slurm's own business.
    spec = spec_of(facts_with(PartitionRecord("gpu", allow_accounts=("chem",))))
    assert spec.partitions["gpu"].account is None


def test_an_account_for_one_partition_only() -> None:
    rows = (Association("north", "physics", "gpu"), Association("north", "chem", "cpu"))
    spec = spec_of(facts_with(PartitionRecord("gpu"), associations=rows))
    assert spec.partitions["gpu"].account == "physics"


def test_accounts_of_other_clusters_do_not_count() -> None:
    facts = facts_with(PartitionRecord("gpu"))
    assert facts.accounts == ("chem", "physics")
    assert facts.accounts_needed
    text = site_text(facts)
    assert "elsewhere" not in text
    assert "Without one Slurm takes chem, your default." in text
    assert spec_of(facts).account is None


def test_the_only_account_without_a_default_is_named() -> None:
    rows = (Association("north", "physics"),)
    facts = facts_with(PartitionRecord("gpu"), associations=rows, default_account=None)
    assert spec_of(facts).account == "physics"
    facts = facts_with(PartitionRecord("gpu"), default_account=None)
    assert spec_of(facts).account is None
    assert "# required: [account]" in site_text(facts)
    assert "account: you have several, and no default" in missing(facts)


def cluster_and_nodes(*rows: tuple[str, bool, dict[str, int], int]) -> Answers:
    """Partitions (name, default, GPUs on a node, nodes)."""
    nodes = tuple(
        NodeRecord(f"{name}{i}", "IDLE", 64, 512_000, partitions=(name,), gpus=gpus)
        for name, _, gpus, count in rows
        for i in range(count)
    )
    seen = tuple(
        Partition(name, default, True, None, tuple(gpus.items()), count, 64, 512_000)
        for name, default, gpus, count in rows
    )
    return Answers(cluster=Cluster(seen), nodes=nodes, config=CONS_TRES)


def test_the_partition_for_launches_that_name_none() -> None:
    gpu, cpu = {"A100": 4}, dict[str, int]()
    facts = site_facts(cluster_and_nodes(("gpu", True, gpu, 1), ("big", False, gpu, 9)))
    assert (facts.partition, facts.partition_why) == ("gpu", "Slurm's own default, which has GPUs")
    facts = site_facts(cluster_and_nodes(("cpu", True, cpu, 9), ("gpu", False, gpu, 1)))
    assert (facts.partition, facts.partition_why) == (
        "gpu",
        "Slurm's default, cpu, has no GPUs; this is the only one with GPUs for you",
    )
    facts = site_facts(cluster_and_nodes(("few", False, gpu, 1), ("many", False, gpu, 3)))
    assert (facts.partition, facts.partition_why) == (
        "many",
        "Slurm has no default partition; of those with GPUs this one has most of them",
    )
    assert "# Others with GPUs: few." in site_text(facts)
    facts = site_facts(cluster_and_nodes(("cpu", True, cpu, 9)))
    assert facts.partition is None
    assert "partition: none was found that could serve you" in missing(facts)
    assert spec_of(facts).partition is None


def test_a_preempting_partition_is_not_the_first_choice() -> None:
    answers = cluster_and_nodes(("spare", False, {"A100": 4}, 9), ("gpu", False, {"A100": 4}, 1))
    records = (PartitionRecord("spare", preempt_mode="CANCEL"), PartitionRecord("gpu"))
    config = SlurmConfig({**CONS_TRES.values, "PreemptType": "preempt/partition_prio"})
    facts = site_facts(replace(answers, partitions=records, config=config))
    assert facts.partition == "gpu"


def test_only_untyped_gpus_with_features() -> None:
    nodes = tuple(
        NodeRecord(f"n{i}", "IDLE", 32, 256_000, features=(f, "x86"), partitions=("gpu",),
                   gpus={"": 4})
        for i, f in enumerate(("a100", "v100"))
    )  # fmt: skip
    cluster = cluster_of(nodes)
    facts = site_facts(Answers(cluster=cluster, nodes=nodes))
    spec = spec_of(facts)
    assert spec.gpu_request == "constraint"
    assert spec.gpu_types == {
        "A100": GpuType(constraint="a100"),
        "V100": GpuType(constraint="v100"),
    }
    assert spec.partitions["gpu"].gpus == {"A100": 4, "V100": 4}
    result = planned(facts, cluster, "V100:4", "gpu")
    assert site_issues(result) == []
    asked = options(result.plan)
    assert (asked["gpus-per-node"], asked["constraint"]) == ("4", "v100")


def test_untyped_gpus_without_features_are_asked_for_by_number() -> None:
    node = NodeRecord("n", "IDLE", 32, 256_000, partitions=("gpu",), gpus={"": 4})
    facts = site_facts(Answers(cluster=cluster_of((node,)), nodes=(node,)))
    assert spec_of(facts).gpu_types == {}
    text = site_text(facts)
    assert "# 4 GPUs of no type on a node" in text
    assert "No GPU of this cluster has a type: ask for a number, as in --gpus 1." in text
    result = planned(facts, cluster_of((node,)), "2", "gpu")
    assert site_issues(result) == []
    assert options(result.plan)["gpus-per-node"] == "2"


def test_sinfo_alone_is_enough_for_a_file() -> None:
    answers = Answers(
        cluster=parse_sinfo(0, "gpu*|up|1-00:00:00|2|64|512000|gpu:A100:4\n", ""),
        unanswered=(Unanswered("scontrol show node", "scontrol failed: Access denied"),),
    )
    facts = site_facts(answers)
    assert spec_of(facts).partitions["gpu"] == PartitionSpec(gpus={"A100": 4})
    text = site_text(facts)
    assert "since scontrol show node did not answer: scontrol failed: Access denied" in text
    assert "2 nodes; with GPUs come 64 CPUs and 512000 MB or more; longest job: 1-00" in text


def test_nothing_at_all_is_a_valid_file_too() -> None:
    facts = site_facts(Answers())
    assert spec_of(facts).executor == "slurm"
    assert site_text(facts).count("\npartitions:") == 0


def test_notes_on_the_whole_cluster() -> None:
    values = {
        **CONS_TRES.values,
        "KillWait": "10 sec",
        "OverTimeLimit": "5 min",
        "PreemptType": "preempt/qos",
        "PreemptMode": "REQUEUE",
        "JobSubmitPlugins": "lua",
        "TaskPlugin": "task/affinity",
        "ProctrackType": "proctrack/linuxproc",
    }
    qos = (Qos("gpu", 3600, "gres/gpu=8"), Qos("normal"))
    notes = site_facts(Answers(config=SlurmConfig(values), qos=qos)).notes
    for words in ("KillWait=10 s", "OverTimeLimit=5 min", "PreemptType=qos", "JobSubmitPlugins=lua",
                  "TaskPlugin=task/affinity", "ProctrackType=linuxproc",
                  "QOS gpu limits a user to gres/gpu=8"):  # fmt: skip
        assert any(words in note for note in notes), words
    hiding = SlurmConfig({**CONS_TRES.values, "PrivateData": "jobs,nodes,usage"})
    assert site_facts(Answers(config=hiding)).notes == (
        "PrivateData hides nodes of others, so that some may be missing here",
    )
    # Newer versions show a plugin that is none as (null).
    none = SlurmConfig({**CONS_TRES.values, "TaskPlugin": "(null)"})
    assert any("without task/cgroup" in note for note in site_facts(Answers(config=none)).notes)
    calm = {
        **CONS_TRES.values,
        "KillWait": "30 sec",
        "OverTimeLimit": "0 min",
        "TaskPlugin": "task/cgroup,task/affinity",
        "ProctrackType": "proctrack/cgroup",
        "PreemptType": "preempt/none",
    }
    assert site_facts(Answers(config=SlurmConfig(calm))).notes == ()
