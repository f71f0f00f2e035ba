"""The text of a new site file: valid whatever Slurm says, and nothing in it but words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.site.cluster import Cluster, Partition
from hpcvlm.site.discover import site_facts
from hpcvlm.site.facts import Answers, Machine, Runtime, Unanswered
from hpcvlm.site.schema import SiteSpec
from hpcvlm.site.suggestions import missing
from hpcvlm.site.text import site_text
from hpcvlm.site.yaml_lines import comment, scalar
from hpcvlm.slurm.accounts import Association
from hpcvlm.slurm.records import NodeRecord, PartitionRecord, SlurmConfig
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.text import parse, parse_value
from tests.site_fixtures import answers_of, cluster_of, part, spec_of


@pytest.mark.parametrize(
    "text",
    ["gpu", "yes", "null", "007", "1.10", "1:2", "a b", "#x", "é", "a: b", "'", '"', "\u2028", "-",
     "@x", "{a}", "a\tb", "C:\\x", "~", "*", "&a", "\x85"],
)  # fmt: skip
def test_a_text_reads_back_as_it_was(text: str) -> None:
    written = scalar(text)
    assert "\n" not in written
    assert parse_value(written) == text
    assert parse(f"{written}: 1", "f") == {text: 1}


def test_comments_stay_comments() -> None:
    lines = comment("a\nb: c\x1b[31m\u2028d " + "word " * 40)
    assert all(line.startswith("#") and len(line) <= 99 for line in lines)
    assert lines[0].startswith("# a b: c [31m d word")


def test_hostile_words_from_slurm_do_no_harm() -> None:
    name = "x: {y}\u2028z"
    node = NodeRecord("n", "IDLE", 8, 64000, features=("a\u2028b: 1",), partitions=(name,),
                      gpus={"A100": 1})  # fmt: skip
    seen = Partition(name, True, True, None, (("A100", 1),), 1, 8, 64000)
    config = SlurmConfig(
        {"ClusterName": 'n"\u2028x: 1', "JobSubmitPlugins": "lua\u2028account: me"}
    )
    facts = site_facts(Answers(cluster=Cluster((seen,)), nodes=(node,), config=config))
    spec = spec_of(facts)
    assert (spec.name, spec.account, set(spec.partitions)) == (
        config.get("ClusterName"),
        None,
        {name},
    )


def test_a_type_that_no_file_can_name_is_asked_for_by_number() -> None:
    node = NodeRecord("n", "IDLE", 8, 64000, partitions=("gpu",), gpus={"rtx+": 2, "A100": 1})
    facts = site_facts(Answers(cluster=cluster_of((node,)), nodes=(node,)))
    assert list(spec_of(facts).gpu_types) == ["A100"]
    assert part(facts, "gpu").untyped == 2


WORDS = st.text(st.characters(codec="utf-8"), max_size=12)
NODES = st.builds(
    NodeRecord,
    name=WORDS,
    state=st.sampled_from(["IDLE", "DOWN*", ""]),
    cpus=st.integers(0, 256),
    memory=st.integers(0, 2**21),
    features=st.lists(WORDS | st.sampled_from(["a100", "v100-32gb", "40gb"])).map(tuple),
    partitions=st.lists(st.sampled_from(["a", "b: {", "\u2028"])).map(tuple),
    gpus=st.dictionaries(
        WORDS | st.sampled_from(["", "a100", "nvidia_a100_80gb_pcie", "1g.5gb"]),
        st.integers(1, 16),
        max_size=3,
    ),
)


@given(st.lists(NODES, max_size=4).map(tuple), st.dictionaries(WORDS, WORDS), WORDS)
@settings(max_examples=60, deadline=None)
def test_whatever_slurm_says_the_file_is_valid(
    nodes: tuple[NodeRecord, ...], values: dict[str, str], word: str
) -> None:
    config = SlurmConfig({**values, "ClusterName": word, "JobSubmitPlugins": word})
    rows = (Association(word, word, "", (word,), word), Association(word, "other"))
    records = (PartitionRecord("a", qos=word, allow_qos=(word,)), PartitionRecord("b: {"))
    machine = Machine(images=((word, (word,)),), hub_caches=((word, word),),
                      proxies=((word, word),), runtime_modules=(word,))  # fmt: skip
    facts = site_facts(
        Answers(None, config, records, nodes, rows, None, (), word, machine,
                (Unanswered(word, word),))
    )  # fmt: skip
    assert spec_of(facts).executor == "slurm"


def test_what_the_machine_shows_is_written_and_the_rest_suggested() -> None:
    machine = Machine(
        runtimes=(Runtime("docker", "28.2"), Runtime("apptainer", "1.4.5")),
        module_system="Lmod",
        images=(("/img", ("vllm-0.33.0.sif",)),),
        hub_caches=(("from HF_HOME", "/models/hub"),),
        proxies=(("https_proxy", "http://proxy:3128"),),
        scratch=("TMPDIR",),
    )
    facts = site_facts(Answers(machine=machine))
    spec = spec_of(facts)
    assert (spec.runtime, spec.image_folder, spec.hub_caches) == (
        "apptainer", "/img", ("/models/hub",),
    )  # fmt: skip
    assert spec.modules == ()
    assert "# https_proxy is http://proxy:3128 on this machine" in site_text(facts)
    assert not any(line.startswith(("runtime", "image", "hub")) for line in missing(facts))


def test_a_runtime_that_only_a_module_has() -> None:
    machine = Machine(module_system="Lmod", runtime_modules=("apptainer/1.2", "apptainer/1.3"))
    facts = site_facts(Answers(machine=machine))
    assert spec_of(facts).modules == ("apptainer/1.3",)
    assert missing(facts)[0] == (
        "runtime: no container runtime is on PATH; the module apptainer/1.3 is taken for it"
    )
    old = Machine(module_system="Lmod", runtime_modules=("tools/Singularity/3.8",))
    spec = spec_of(site_facts(Answers(machine=old)))
    assert (spec.runtime, spec.modules) == ("singularity", ("tools/Singularity/3.8",))


def test_every_line_is_at_most_a_hundred_wide_and_every_suggestion_is_valid() -> None:
    text = site_text(site_facts(answers_of("tum")))
    assert max(map(len, text.splitlines())) <= 100
    # What stands commented out as 'key: value' must be valid when the '#' is taken away.
    keys = {"account", "qos", "required", "gpu_flag", "modules", "image_folder", "hub_caches",
            "binds", "media_root", "cache_root", "scratch_root", "proxy", "listen"}  # fmt: skip
    found = [line[2:] for line in text.splitlines() if line[2:].split(":")[0] in keys]
    assert {line.split(":")[0] for line in found} >= keys - {"required"}
    for line in found:
        validate(SiteSpec, line, line)
