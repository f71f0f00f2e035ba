"""The cluster as sinfo shows it."""

from __future__ import annotations

import pytest

from hpcvlm.site.cluster import Cluster, Partition, nearest_type, parse_sinfo

ALVIS_LIKE = """\
gpu*|up|7-00:00:00|20|64|256000|gpu:A100:4(S:0-1)
gpu*|up|7-00:00:00|4|64|512000|gpu:A100fat:4(S:0-1)
gpu*|up|7-00:00:00|2|32|768000|gpu:V100:2(S:0),gpu:T4:1(S:1)
mig|inact|2:00:00|1|16|128000|gpu:1g.5gb:7(IDX:0-6)
untyped|up|infinite|3|48|96000+|gpu:8,nvme:1
cpu|down|UNLIMITED|100|128|512000|(null)
"""


@pytest.fixture
def cluster() -> Cluster:
    return parse_sinfo(0, ALVIS_LIKE, "")


def test_partitions_of_several_kinds_of_nodes(cluster: Cluster) -> None:
    assert cluster.partitions == (
        Partition(
            name="gpu",
            default=True,
            available=True,
            time_limit_s=7 * 86400,
            gpu_types=(("A100", 4), ("A100fat", 4), ("V100", 2), ("T4", 1)),
            nodes=26,
            cpus=64,
            memory=768000,
        ),
        Partition("mig", False, False, 7200, (("1g.5gb", 7),), 1, 16, 128000),
        Partition("untyped", False, True, None, (("", 8),), 3, 48, 96000),
        Partition("cpu", False, False, None, (), 100, 128, 512000),
    )


def test_a_partition_by_name(cluster: Cluster) -> None:
    by_name = cluster.partition("mig")
    default = cluster.partition(None)
    assert by_name is not None
    assert by_name.name == "mig"
    assert default is not None
    assert default.name == "gpu"
    assert cluster.partition("nope") is None


def test_a_cluster_without_a_default_partition() -> None:
    cluster = parse_sinfo(0, "cpu|up|1:00:00|1|8|16000|(null)\n", "")
    assert cluster.partition(None) is None


def test_gpus_of_a_partition(cluster: Cluster) -> None:
    gpu = cluster.partition("gpu")
    assert gpu is not None
    assert gpu.most_gpus == 4
    assert (gpu.gpus(None), gpu.gpus("V100"), gpu.gpus("H100")) == (4, 2, 0)
    assert cluster.gpu_types("cpu") == {}
    assert cluster.gpu_types() == {
        "A100": 4, "A100fat": 4, "V100": 2, "T4": 1, "1g.5gb": 7, "": 8,
    }  # fmt: skip
    assert cluster.partitions_with("1g.5gb") == ("mig",)


def test_the_heading_of_a_cluster_is_no_partition() -> None:
    cluster = parse_sinfo(0, "CLUSTER: north\ngpu*|up|1:00:00|1|8|16000|gpu:4\n", "")
    assert [partition.name for partition in cluster.partitions] == ["gpu"]


def test_one_type_in_several_lots_is_summed_on_a_node() -> None:
    answer = "gpu|up|1:00:00|1|8|16000|gpu:A100:2(S:0),gpu:A100:2(S:1)\n"
    cluster = parse_sinfo(0, answer, "")
    assert cluster.partitions[0].gpu_types == (("A100", 4),)


@pytest.mark.parametrize(
    ("asked", "known", "nearest"),
    [
        ("A100", ["a100"], "a100"),
        ("a100", ["H100", "A100"], "A100"),
        ("A100", ["nvidia_a100_80gb_pcie", "nvidia_h100_nvl"], "nvidia_a100_80gb_pcie"),
        ("nvidia_a100", ["A100", "V100"], "A100"),
        ("A10O", ["A100", "V100"], "A100"),
        ("A100", ["A100fat", "A100"], "A100"),
        ("H200", ["A100", "V100"], None),
        ("A100", [""], None),
        ("A100", [], None),
        ("...", ["A100"], None),
    ],
)
def test_the_type_that_was_meant(asked: str, known: list[str], nearest: str | None) -> None:
    assert nearest_type(asked, known) == nearest
