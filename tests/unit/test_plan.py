"""What is decided from a request, a model, a site and what was found; and what is refused."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.build import check_request
from hpcvlm.plan.engine import candidate_images
from hpcvlm.plan.gpus import default_count, parse_gpus
from hpcvlm.plan.model import Bind, GpuRequest, Issue, LaunchRequest
from hpcvlm.site.cluster import Cluster, parse_sinfo
from tests.job_fixtures import COMMIT, make_plan, model, site, surroundings
from tests.plan_fixtures import (
    IMAGE,
    IN_IMAGE,
    LLAMA,
    ON_DISK,
    TINY,
    argument,
    only_issue,
    option,
    plan_in_image,
)

# ---- GPUs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "kind"),
    [
        ("4", 4, None),
        (" 4 ", 4, None),
        ("A100:4", 4, "A100"),
        ("nvidia_a100-80gb.pcie:2", 2, "nvidia_a100-80gb.pcie"),
        ("1g.5gb:2", 2, "1g.5gb"),
        ("T4", 1, "T4"),
        ("0", 0, None),
    ],
)
def test_ways_to_ask_for_gpus(text: str, count: int, kind: str | None) -> None:
    assert parse_gpus(text, model(TINY)) == GpuRequest(count, kind)


@pytest.mark.parametrize(
    "text", ["", "A100:", ":4", "A100:x", "A100:4:1", "-1", "4:2", "A100 4", "A100=4", "٤", "a,b"]
)
def test_what_is_no_way_to_ask_for_gpus(text: str) -> None:
    with pytest.raises(HpcvlmError) as error:
        check_request(LaunchRequest(TINY, gpus=text), model(TINY))
    assert error.value.code == "gpus-invalid"
    assert error.value.sentence == f"--gpus {text!r} is neither a number nor TYPE:NUMBER"
    assert error.value.remedy == "for example --gpus A100:4 or --gpus 4"


def test_a_type_alone_takes_the_model_s_number_for_it() -> None:
    spec = model(TINY, "parallelism.gpus={default: 1, T4: 4}")
    assert [default_count(spec, kind) for kind in (None, "t4", "T4", "A100")] == [1, 4, 4, 1]
    assert default_count(model(TINY, "parallelism.gpus={T4: 4}"), None) == 1


@pytest.mark.parametrize(
    ("gpus", "tensor_parallel", "as_flag"),
    [("A100:4", "4", "A100:4"), ("2", "2", "2"), (None, "1", "1"), ("T4", "1", "T4:1")],
)
def test_gpus_become_tensor_parallelism_and_a_request(
    gpus: str | None, tensor_parallel: str, as_flag: str
) -> None:
    plan = make_plan(LaunchRequest(TINY, gpus=gpus)).plan
    assert argument(plan, "--tensor-parallel-size") == tensor_parallel
    assert option(plan, "gpus-per-node") == as_flag
    assert option(plan, "gres") is None
    plan = make_plan(LaunchRequest(TINY, gpus=gpus), site_text="gpu_request: gres\n").plan
    assert option(plan, "gres") == f"gpu:{as_flag}"
    assert option(plan, "gpus-per-node") is None


def test_cpus_and_memory_go_with_the_gpus() -> None:
    text = "cpus_per_gpu: 8\nmemory_per_gpu: 60G\n"
    plan = make_plan(LaunchRequest(TINY, gpus="4"), site_text=text).plan
    assert (option(plan, "cpus-per-task"), option(plan, "mem-per-gpu")) == ("32", "60G")
    plan = make_plan(LaunchRequest(TINY, gpus="4")).plan
    assert (option(plan, "cpus-per-task"), option(plan, "mem-per-gpu")) == (None, None)


def test_without_a_gpu_nothing_is_asked_for_and_no_flag_is_given() -> None:
    result = plan_in_image(
        LaunchRequest(TINY, gpus="0"), "cpus_per_gpu: 8\nmemory_per_gpu: 60G\n", executor="local"
    )
    assert result.issues == ()
    names = {o.name for o in result.plan.sbatch}
    assert not {"gpus-per-node", "gres", "cpus-per-task", "mem-per-gpu"} & names
    assert result.plan.gpu_flag == ""
    assert argument(result.plan, "--tensor-parallel-size") == "1"


def test_slurm_is_not_asked_for_no_gpu() -> None:
    issue = only_issue(make_plan(LaunchRequest(TINY, gpus="0")))
    assert issue == Issue(
        "gpus-invalid", "--gpus", "--gpus 0 asks for no GPU", "ask for at least 1"
    )


@pytest.mark.parametrize(
    ("heads", "gpus", "remedy"),
    [
        (32, "3", "ask for 1, 2, 4, 8 or 16 GPUs per node"),
        (28, "8", "ask for 1, 2, 4, 7 or 14 GPUs per node"),
        (23, "2", "ask for 1 GPUs per node"),
        (17, "A100:4", "ask for 1 GPUs per node"),
        (2, "4", "ask for 1 or 2 GPUs per node"),
    ],
)
def test_gpus_that_do_not_divide_the_heads(heads: int, gpus: str, remedy: str) -> None:
    result = make_plan(LaunchRequest(TINY, gpus=gpus), attention_heads=heads)
    count = result.plan.gpus.count
    assert only_issue(result) == Issue(
        "tensor-parallel",
        "--gpus",
        f"a tensor parallel size of {count} does not divide the model's {heads} attention heads",
        remedy,
    )


def test_heads_on_disk_count_more_than_those_in_the_file() -> None:
    asked = LaunchRequest(TINY, gpus="3")
    assert make_plan(asked, attention_heads=3).issues == ()
    assert only_issue(make_plan(asked)).sentence.endswith("the model's 4 attention heads")
    unknown = model(TINY, "parallelism.attention_heads=null")
    assert make_plan(asked, spec=unknown).issues == ()


# ---- the cluster ------------------------------------------------------------------------------

SINFO = """\
gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4
gpu*|up|1-00:00:00|2|8|16000|gpu:L40S:2
big|up|infinite|1|8|16000|gpu:H100:8
short|up|30:00|1|8|16000|gpu:A100:1
any|up|1:00:00|1|8|16000|gpu:6
old|down|1:00:00|1|8|16000|gpu:K80:8
cpu|up|1:00:00|1|8|16000|(null)
"""


def cluster(text: str = SINFO) -> Cluster:
    return parse_sinfo(0, text, "")


NO_DEFAULT = cluster(SINFO.replace("gpu*", "gpu"))


@pytest.mark.parametrize(
    ("gpus", "partition"),
    [
        ("A100:4", None),
        ("4", None),
        ("L40S:2", "gpu"),
        ("H100:8", "big"),
        ("6", "any"),
        ("A100:1", "short"),
    ],
)
def test_what_the_cluster_has_is_no_issue(gpus: str, partition: str | None) -> None:
    asked = LaunchRequest(TINY, gpus=gpus, partition=partition, time="20m")
    assert make_plan(asked, cluster=cluster(), attention_heads=24 * 5).issues == ()


@pytest.mark.parametrize(
    ("gpus", "partition", "sentence", "remedy"),
    [
        (
            "a100:4",
            None,
            "partition gpu has no GPU of type 'a100'; it has A100:4, L40S:2",
            "--gpus A100:4",
        ),
        (
            "nvidia_l40s:2",
            None,
            "partition gpu has no GPU of type 'nvidia_l40s'; it has A100:4, L40S:2",
            "--gpus L40S:2",
        ),
        (
            "A10:2",
            "short",
            "partition short has no GPU of type 'A10'; it has A100:1",
            "--gpus A100:2",
        ),
        (
            "H100:8",
            None,
            "partition gpu has no GPU of type 'H100'; it has A100:4, L40S:2",
            "--partition big, which has them",
        ),
        (
            "MI300X:4",
            "big",
            "partition big has no GPU of type 'MI300X'; it has H100:8",
            "ask for one of these, or a number",
        ),
        (
            "K80:8",
            "cpu",
            "partition cpu has no GPU of type 'K80'; it has no GPUs",
            "sinfo -o '%P %G' lists GPUs by partition",
        ),
        (
            "A100:2",
            "any",
            "partition any has no GPU of type 'A100'; it has 6 of no type",
            "--partition gpu, which has them",
        ),
    ],
)
def test_a_gpu_type_that_is_not_there(
    gpus: str, partition: str | None, sentence: str, remedy: str
) -> None:
    asked = LaunchRequest(TINY, gpus=gpus, partition=partition, time="20m")
    issue = only_issue(make_plan(asked, cluster=cluster(), attention_heads=64))
    assert issue == Issue("gpu-type-unknown", "--gpus", sentence, remedy)


@pytest.mark.parametrize(
    ("gpus", "partition", "sentence", "remedy"),
    [
        (
            "A100:8",
            None,
            "no node of partition gpu has A100:8 GPUs; it has A100:4, L40S:2",
            "ask for at most 4",
        ),
        (
            "L40S:4",
            None,
            "no node of partition gpu has L40S:4 GPUs; it has A100:4, L40S:2",
            "ask for at most 2",
        ),
        (
            "A100:2",
            "short",
            "no node of partition short has A100:2 GPUs; it has A100:1",
            "--partition gpu, which has them",
        ),
        (
            "8",
            None,
            "no node of partition gpu has 8 GPUs; it has A100:4, L40S:2",
            "--partition big, which has them",
        ),
        (
            "2",
            "cpu",
            "no node of partition cpu has 2 GPUs; it has no GPUs",
            "--partition gpu or big or any, which has them",
        ),
        (
            "64",
            "cpu",
            "no node of partition cpu has 64 GPUs; it has no GPUs",
            "sinfo -o '%P %G' lists GPUs by partition",
        ),
    ],
)
def test_more_gpus_than_a_node_has(
    gpus: str, partition: str | None, sentence: str, remedy: str
) -> None:
    asked = LaunchRequest(TINY, gpus=gpus, partition=partition, time="20m")
    issue = only_issue(make_plan(asked, cluster=cluster(), attention_heads=64))
    assert issue == Issue("gpu-count", "--gpus", sentence, remedy)


def test_without_a_default_partition_every_partition_counts() -> None:
    for gpus in ("A100:4", "H100:8"):
        asked = LaunchRequest(TINY, gpus=gpus)
        assert make_plan(asked, cluster=NO_DEFAULT, attention_heads=8).issues == ()
    issue = only_issue(make_plan(LaunchRequest(TINY, gpus="B200:4"), cluster=NO_DEFAULT))
    assert issue.sentence == (
        "this cluster has no GPU of type 'B200'; it has 6 of no type, A100:4, H100:8, K80:8, L40S:2"
    )


@pytest.mark.parametrize("site_text", ["", "partition: gpuu\n"])
def test_a_partition_that_is_not_there(site_text: str) -> None:
    asked = LaunchRequest(TINY, partition=None if site_text else "gpuu")
    issue = only_issue(make_plan(asked, site_text=site_text, cluster=cluster()))
    assert issue == Issue(
        "partition-unknown",
        "--partition",
        "this cluster has no partition 'gpuu'",
        "one of gpu, big, short, any, old, cpu",
    )


# ---- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "model_time", "partition", "seconds", "text"),
    [
        ("2:00:00", "30m", None, 7200, "02:00:00"),
        ("90", "30m", None, 5400, "01:30:00"),
        (None, "30m", None, 1800, "00:30:00"),
        # The model's own default gives way to the partition's limit.
        (None, "2h", "short", 1800, "00:30:00"),
        (None, "5d", None, 86400, "1-00:00:00"),
        ("9d", "2h", "big", 9 * 86400, "9-00:00:00"),
        ("30m", "2h", "short", 1800, "00:30:00"),
    ],
)
def test_the_time_limit(
    asked: str | None, model_time: str, partition: str | None, seconds: int, text: str
) -> None:
    result = make_plan(
        LaunchRequest(TINY, time=asked, partition=partition),
        spec=model(TINY, f"time={model_time}"),
        cluster=cluster(),
    )
    assert result.issues == ()
    assert (result.plan.time_limit_s, option(result.plan, "time")) == (seconds, text)


def test_a_time_that_the_partition_does_not_allow() -> None:
    asked = LaunchRequest(TINY, time="2h", partition="short")
    assert only_issue(make_plan(asked, cluster=cluster())) == Issue(
        "time-limit",
        "--time",
        "--time 2h is longer than partition short allows (00:30:00)",
        "--time 00:30:00, or another partition",
        arguable=True,
    )
    issue = only_issue(make_plan(LaunchRequest(TINY, time="2-0"), cluster=cluster()))
    assert issue.sentence == "--time 2-0 is longer than partition gpu allows (1-00:00:00)"


@pytest.mark.parametrize("text", ["soon", "", "-1", "0", "1:99", "9999d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(HpcvlmError) as error:
        check_request(LaunchRequest(TINY, time=text), model(TINY))
    assert error.value.code == "time-invalid"
    assert error.value.sentence.startswith(f"--time {text!r} is ")
    assert "2:00:00" in error.value.remedy


def test_slurm_warns_before_the_end_and_the_script_is_faster_than_its_patience() -> None:
    plan = make_plan(LaunchRequest(TINY)).plan
    assert option(plan, "signal") == "B:TERM@60"
    assert plan.stop_timeout_s < 30  # KillWait in slurm.conf


# ---- what else sbatch is told -----------------------------------------------------------------


def test_the_command_line_counts_more_than_the_site() -> None:
    text = "partition: p\naccount: a\nqos: q\nconstraint: c\n"
    keys = ("partition", "account", "qos", "constraint")
    plan = make_plan(LaunchRequest(TINY), site_text=text).plan
    assert [option(plan, key) for key in keys] == ["p", "a", "q", "c"]
    asked = LaunchRequest(TINY, partition="P", account="A", qos="Q", constraint="a100|h100&ib")
    plan = make_plan(asked, site_text=text).plan
    assert [option(plan, key) for key in keys] == ["P", "A", "Q", "a100|h100&ib"]
    assert plan.partition == "P"
    plan = make_plan(LaunchRequest(TINY)).plan
    assert [option(plan, key) for key in keys] == [None] * 4


def test_the_site_s_further_options_never_replace_ours() -> None:
    text = "sbatch: {mail-type: FAIL, exclusive: '', time: '1', signal: KILL, output: /x}\n"
    plan = make_plan(LaunchRequest(TINY, time="2h"), site_text=text).plan
    assert (option(plan, "mail-type"), option(plan, "exclusive")) == ("FAIL", "")
    assert (option(plan, "time"), option(plan, "signal")) == ("02:00:00", "B:TERM@60")
    assert option(plan, "output") == "/state/jobs/mine/job.out"
    assert len({o.name for o in plan.sbatch}) == len(plan.sbatch)


def test_a_percent_sign_in_a_folder_is_no_pattern() -> None:
    plan = make_plan(LaunchRequest(TINY), folder="/state %j/jobs/mine").plan
    assert option(plan, "output") == "/state %%j/jobs/mine/job.out"
    assert option(plan, "error") == "/state %%j/jobs/mine/job.err"
    assert plan.folder == "/state %j/jobs/mine"


def test_one_endpoint_runs_on_one_node() -> None:
    assert option(make_plan(LaunchRequest(TINY)).plan, "nodes") == "1"
    assert make_plan(LaunchRequest(TINY, nodes=1)).issues == ()
    assert only_issue(make_plan(LaunchRequest(TINY, nodes=2))) == Issue(
        "nodes-unsupported",
        "--nodes",
        "--nodes 2: one endpoint runs on one node",
        "leave --nodes out, and ask for more GPUs per node",
    )


# ---- the engine -------------------------------------------------------------------------------

MANY = "engines:\n" + "".join(
    f"  - {{version: {version}, image: /images/{version}.sif}}\n"
    for version in ("0.9.1", "0.10.2", "0.9.10", "0.10.2rc1", "0.11.0", "0.32.0")
)


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        (">=0.9.1,<=0.10.2", "0.10.2"),
        (">=0.9.1,<0.10", "0.9.10"),
        ("==0.10.2rc1", "0.10.2rc1"),
        (">=0.9.1", "0.32.0"),
        ("==0.11.*", "0.11.0"),
    ],
)
def test_the_newest_engine_in_the_range_serves(versions: str, chosen: str) -> None:
    image = f"/images/{chosen}.sif"
    result = make_plan(
        LaunchRequest(TINY),
        spec=model(TINY, f"engine.versions={versions}"),
        site_text=MANY,
        images_on_disk=frozenset({image}),
    )
    assert result.issues == ()
    assert (result.plan.engine.version, result.plan.engine.image) == (chosen, image)


def test_an_image_is_found_by_its_version_where_none_is_listed() -> None:
    text = "image_folder: /images\n"
    spec = model(LLAMA)
    image = "/images/vllm-0.10.2.sif"
    assert candidate_images(spec, site(text)) == {image}
    result = make_plan(
        LaunchRequest(LLAMA), spec=spec, site_text=text, images_on_disk=frozenset({image})
    )
    assert result.issues == ()
    assert result.plan.engine.image == image
    assert result.plan.engine.command == ("vllm",)


def test_an_image_that_is_not_there_is_told_with_how_to_build_it() -> None:
    result = plan_in_image(LaunchRequest(TINY), images_on_disk=frozenset())
    assert only_issue(result) == Issue(
        "container-missing",
        "engines",
        f"the container image {IMAGE} does not exist",
        f"hpcvlm containers build 0.32.0 --output {IMAGE}",
    )


def test_the_build_command_names_the_engine_s_version_whatever_the_image_is_called() -> None:
    text = "engines: [{version: 0.32.0, image: /images/my vllm.sif}]\n"
    remedy = only_issue(make_plan(LaunchRequest(TINY), site_text=text)).remedy
    assert remedy == "hpcvlm containers build 0.32.0 --output '/images/my vllm.sif'"


def test_an_engine_outside_the_range_is_told_with_the_reason() -> None:
    result = make_plan(
        LaunchRequest(LLAMA), spec=model(LLAMA), site_text=IN_IMAGE, images_on_disk=ON_DISK
    )
    issue = only_issue(result)
    assert issue.code == "engine-version"
    assert issue.sentence == (
        "llama-3.2-11b-vision needs vllm >=0.9.1,<=0.10.2 (vLLM 0.10.2 is the last version with "
        "MllamaForConditionalGeneration (vllm-project/vllm#27198)); this site has 0.32.0"
    )
    assert issue.remedy == (
        "install vllm 0.10.2 and name it under 'engines:' in the site file: "
        "hpcvlm containers build 0.10.2"
    )


def test_no_engine_at_all() -> None:
    issue = only_issue(make_plan(LaunchRequest(TINY), site_text="schema: 1\n", bare=True))
    assert issue.code == "engine-missing"
    assert issue.sentence == "tiny-vlm needs vllm >=0.10.0; no engine is known here"
    assert issue.remedy == (
        "name one under 'engines:' in the site file, or its folder as 'image_folder:'"
    )


# ---- the runtime and what it sees -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "runtime", "flag"),
    [
        ("", "apptainer", "--nv"),
        ("runtime: singularity\ngpu_flag: --rocm\n", "singularity", "--rocm"),
        ("gpu_flag: ''\n", "apptainer", ""),
    ],
)
def test_the_runtime_of_an_image(text: str, runtime: str, flag: str) -> None:
    plan = plan_in_image(LaunchRequest(TINY), text).plan
    assert (plan.runtime, plan.gpu_flag) == (runtime, flag)


def test_an_engine_without_an_image_needs_no_runtime() -> None:
    text = "runtime: apptainer\nengines: [{version: 0.32.0, command: [/venv/bin/vllm, -q]}]\n"
    plan = make_plan(LaunchRequest(TINY), site_text=text).plan
    assert (plan.runtime, plan.gpu_flag, plan.engine.image) == ("none", "", None)
    assert plan.engine.command == ("/venv/bin/vllm", "-q")


def test_a_container_sees_only_what_this_job_needs() -> None:
    site_text = "binds: ['/a', '/b:/c', '/d:/e:rw', '/f:/g:ro', '/a']\nmedia_root: /pictures\n"
    plan = plan_in_image(LaunchRequest(TINY), site_text).plan
    assert [bind.text for bind in plan.binds] == [
        "/state/jobs/mine/payloads:/state/jobs/mine/payloads:ro",
        "/state/jobs/mine/key:/state/jobs/mine/key:ro",
        "/hub/models--org--model:/hub/models--org--model:ro",
        "/pictures:/pictures:ro",
        f"{plan.cache}:{plan.cache}:rw",
        "/a:/a:ro",
        "/b:/c:ro",
        "/d:/e:rw",
        "/f:/g:ro",
    ]
    assert [b for b in plan.binds if not b.read_only] == [
        Bind(plan.cache, plan.cache, read_only=False),
        Bind("/d", "/e", read_only=False),
    ]


def test_binds_and_variables_of_another_image_are_not_taken() -> None:
    text = """
engines:
  - {version: 0.10.2, image: /old.sif, binds: [/old], environment: {WHOSE: old, OLD: '1'}}
  - {version: 0.32.0, image: /new.sif, binds: [/new], environment: {WHOSE: new}}
"""
    plan = make_plan(
        LaunchRequest(TINY), site_text=text, images_on_disk=frozenset({"/new.sif"})
    ).plan
    sources = {bind.source for bind in plan.binds}
    assert "/new" in sources
    assert "/old" not in sources
    environment = dict(plan.environment)
    assert environment["WHOSE"] == "new"
    assert "OLD" not in environment


@pytest.mark.parametrize("folder", ["/state:1/jobs/mine", "/a,b/jobs/mine"])
def test_a_path_that_cannot_be_mounted(folder: str) -> None:
    issues = plan_in_image(LaunchRequest(TINY), folder=folder).issues
    assert {issue.code for issue in issues} == {"path-unsafe"}
    assert issues[0].sentence == (
        f"{folder}/key cannot be mounted into a container: its name holds a colon or a comma"
    )
    assert issues[0].remedy == "use a folder without them; HPCVLM_STATE moves hpcvlm's own"
    # Without a container commas do no harm; at colons Python splits PYTHONPATH.
    assert bool(make_plan(LaunchRequest(TINY), folder=folder).issues) == (":" in folder)


def test_every_engine_build_has_a_cache_of_its_own() -> None:
    def cache(text: str) -> str:
        return make_plan(LaunchRequest(TINY), site_text=text).plan.cache

    one = cache(IN_IMAGE)
    assert one == cache(IN_IMAGE)
    assert one.startswith("/state/cache/vllm-0.32.0-")
    others = [
        cache(IN_IMAGE.replace("/images/", "/elsewhere/")),
        cache(IN_IMAGE.replace("version: 0.32.0", "version: 0.31.0")),
        cache("engines: [{version: 0.32.0, command: [vllm]}]\n"),
        cache("engines: [{version: 0.32.0, command: [v, llm]}]\n"),
    ]
    assert len({one, *others}) == 5


# ---- the engine's arguments and environment ---------------------------------------------------


def test_arguments_in_their_order() -> None:
    spec = model(TINY, "options={seed: 0, enforce-eager: false, lora-modules: [a, b]}", "time=1h")
    plan = make_plan(
        LaunchRequest(TINY, gpus="2", engine_arguments=("--seed", "7")), spec=spec
    ).plan
    assert plan.engine_arguments == (
        "serve",
        f"/hub/models--org--model/snapshots/{COMMIT}",
        *("--middleware", "hpcvlm_guard.KeyGuard"),
        *("--served-model-name", "tiny-vlm"),
        *("--tensor-parallel-size", "2"),
        *("--limit-mm-per-prompt", '{"image":2,"video":1}'),
        *("--allowed-local-media-path", "/state/jobs/mine/media"),
        *("--allowed-media-domains", "none.invalid"),
        *("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "4"),
        "--no-enforce-eager",
        *("--seed", "0", "--lora-modules", "a", "b"),
        # What the user adds comes last, and wins.
        *("--seed", "7"),
    )


def test_the_model_s_variables_count_more_than_the_engine_s_and_these_more_than_the_site_s() -> (
    None
):
    text = """
environment: {A: site, B: site, C: site, HF_HUB_OFFLINE: '0'}
engines: [{version: 0.32.0, command: [vllm], environment: {B: engine, C: engine}}]
"""
    spec = model(TINY, "environment.C=model", "start_timeout=15m")
    environment = dict(make_plan(LaunchRequest(TINY), spec=spec, site_text=text).plan.environment)
    assert [environment[name] for name in "ABC"] == ["site", "engine", "model"]
    assert environment["HF_HUB_OFFLINE"] == "0"
    assert environment["VLLM_ENGINE_READY_TIMEOUT_S"] == "900"
    assert environment["HPCVLM_KEY_FILE"] == "/state/jobs/mine/key"
    assert environment["PYTHONPATH"] == "/state/jobs/mine/payloads"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not any("KEY" in name and name != "HPCVLM_KEY_FILE" for name in environment)
    assert "VLLM_PORT" not in environment


def test_the_name_in_the_api_is_the_repository_where_the_model_says_nothing() -> None:
    plan = make_plan(LaunchRequest(TINY), spec=model(TINY, "served_name=null")).plan
    assert plan.served_name == "hpcvlm/tiny-vlm"
    assert argument(plan, "--served-model-name") == "hpcvlm/tiny-vlm"


@pytest.mark.parametrize(
    ("asked", "site_text", "root", "private"),
    [
        (None, "", "/state/jobs/mine/media", True),
        (None, "media_root: /pictures\n", "/pictures", False),
        ("/mine", "media_root: /pictures\n", "/mine", False),
    ],
)
def test_the_media_root(asked: str | None, site_text: str, root: str, private: bool) -> None:
    plan = make_plan(LaunchRequest(TINY, media_root=asked), site_text=site_text).plan
    assert (plan.media_root, plan.media_root_is_private) == (root, private)
    assert argument(plan, "--allowed-local-media-path") == root


@pytest.mark.parametrize(
    ("executor", "site_text", "address"),
    [
        ("slurm", "", "0.0.0.0"),  # noqa: S104 - what is expected, and keyed
        ("slurm", "listen: loopback\n", "127.0.0.1"),
        ("local", "", "127.0.0.1"),
        ("local", "listen: node\n", "127.0.0.1"),
    ],
)
def test_who_can_reach_it(executor: str, site_text: str, address: str) -> None:
    plan = make_plan(LaunchRequest(TINY), site_text=site_text, executor=executor).plan
    assert plan.listen_host == address


# ---- the snapshot -----------------------------------------------------------------------------


def test_files_that_cannot_be_served_are_told_one_by_one() -> None:
    problems = ("/hub/x: config.json: missing or not readable", "/hub/x: a.safetensors: cut short")
    result = make_plan(LaunchRequest(TINY), snapshot_problems=problems)
    assert [issue.sentence for issue in result.issues] == list(problems)
    assert {issue.code for issue in result.issues} == {"snapshot-broken"}
    remedies = {issue.remedy for issue in result.issues}
    assert remedies == {"hpcvlm snapshots verify tiny-vlm --repair"}


def test_files_that_are_not_there_are_to_be_pulled() -> None:
    problems = ("it is in no hub cache",)
    result = make_plan(LaunchRequest(TINY), snapshot_problems=problems, snapshot_on_disk=False)
    issue = result.issues[0]
    assert (issue.code, issue.remedy) == ("snapshot-missing", "hpcvlm snapshots pull tiny-vlm")


def test_what_was_typed_is_told_first_then_the_cluster_then_the_disk() -> None:
    result = plan_in_image(
        LaunchRequest(TINY, gpus="X100:3", time="9d", nodes=2),
        cluster=cluster(),
        images_on_disk=frozenset(),
        snapshot_problems=("gone",),
        folder="/a:b/x",
    )
    assert [issue.code for issue in result.issues] == [
        "tensor-parallel",
        "nodes-unsupported",
        "gpu-type-unknown",
        "time-limit",
        "container-missing",
        "snapshot-broken",
        *["path-unsafe"] * 3,
    ]


def test_a_plan_is_the_same_every_time() -> None:
    asked = LaunchRequest(TINY, gpus="A100:4")
    assert asdict(plan_in_image(asked)) == asdict(plan_in_image(asked))
    assert asdict(surroundings()) == asdict(surroundings())
