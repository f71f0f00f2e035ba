"""Other sites' captured answers as values, and what hpcvlm makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlanResult
from hpcvlm.site.cluster import Cluster, parse_sinfo
from hpcvlm.site.facts import Answers, PartitionFacts, SiteFacts
from hpcvlm.site.schema import SiteSpec
from hpcvlm.site.text import site_text
from hpcvlm.slurm.gres import gpus_of, parse_gres
from hpcvlm.slurm.records import (
    NodeRecord,
    SlurmConfig,
    parse_scontrol_config,
    parse_scontrol_nodes,
    parse_scontrol_partitions,
)
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.text import parse
from tests.job_fixtures import make_plan

SITES = Path(__file__).parent / "data" / "slurm" / "sites"
IMAGE = "/images/vllm-0.32.0.sif"
CONS_TRES = SlurmConfig(
    {
        "ClusterName": "north",
        "SLURM_VERSION": "24.05.1",
        "SelectType": "select/cons_tres",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageEnforce": "associations,limits,qos",
    }
)


def captured(name: str) -> list[dict[str, str]]:
    path = SITES / f"{name}.yaml"
    data: Any = parse(path.read_text(encoding="utf-8"), str(path))
    answers: list[dict[str, str]] = data["answers"]
    return answers


def answers_of(name: str) -> Answers:
    """A site's captured answers as hpcvlm reads them."""
    found = Answers()
    for answer in captured(name):
        command, text = answer["command"], answer["text"]
        if "show config" in command:
            found = replace(found, config=parse_scontrol_config(0, text, ""))
        elif "show partition" in command:
            found = replace(found, partitions=parse_scontrol_partitions(0, text, ""))
        elif "show node" in command:
            found = replace(found, nodes=parse_scontrol_nodes(0, text, ""))
        else:
            raise AssertionError(command)
    return replace(found, cluster=cluster_of(found.nodes or ())) if found.nodes else found


def cluster_of(nodes: tuple[NodeRecord, ...]) -> Cluster:
    """What sinfo would show of these nodes."""
    lines = [
        f"{partition}|up|infinite|1|{node.cpus}|{node.memory}|"
        + (",".join(f"gpu:{k}:{n}" if k else f"gpu:{n}" for k, n in node.gpus.items()) or "(null)")
        for node in nodes
        for partition in node.partitions
    ]
    return parse_sinfo(0, "\n".join(lines), "")


def nodes_of_features(cluster: str) -> tuple[NodeRecord, ...]:
    """Nodes of one partition, from sinfo's features and GRES."""
    (answer,) = (one for one in captured("alliance") if one["cluster"] == cluster)
    rows = [line.split("|") for line in answer["text"].splitlines()]
    return tuple(
        NodeRecord(
            name=f"n{number}",
            state="IDLE",
            cpus=64,
            memory=512_000,
            gres=parse_gres(gres),
            features=tuple(features.split(",")),
            partitions=("all",),
            gpus=gpus_of(parse_gres(gres)),
        )
        for number, (features, gres) in enumerate(rows)
    )


def spec_of(facts: SiteFacts) -> SiteSpec:
    return validate(SiteSpec, site_text(facts), "new.yaml")


def part(facts: SiteFacts, name: str) -> PartitionFacts:
    (found,) = (one for one in facts.partitions if one.name == name)
    return found


def planned(facts: SiteFacts, cluster: Cluster | None, gpus: str, partition: str) -> PlanResult:
    text = f"{site_text(facts)}\nengines: [{{version: 0.32.0, image: {IMAGE}}}]\n"
    asked = LaunchRequest("tiny-vlm", gpus=gpus, partition=partition)
    return make_plan(
        asked, site_text=text, cluster=cluster, images_on_disk=frozenset({IMAGE}), executor="slurm"
    )


def site_issues(result: PlanResult) -> list[str]:
    """What is wrong with the request as such; whether the model suits the GPU is another matter."""
    codes = {"gpus-invalid", "gpu-type-unknown", "gpu-count", "partition-unknown", "time-limit",
             "option-required"}  # fmt: skip
    return [issue.sentence for issue in result.issues if issue.code in codes]


def options(plan: LaunchPlan) -> dict[str, str]:
    return {option.name: option.value for option in plan.sbatch}
