"""The rendered script: golden files, ShellCheck, and values that try to get out of it.

HPCVLM_UPDATE_GOLDEN=1 writes the golden files again; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm import __version__
from hpcvlm.catalog.load import Layer, apply_settings, find_model
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.prepare import materials
from hpcvlm.plan.build import Surroundings, build_plan
from hpcvlm.plan.model import (
    LaunchPlan,
    LaunchRequest,
    PlannedNotify,
    PlannedSnapshot,
    SbatchOption,
    StagedFile,
)
from hpcvlm.render.script import render_job, sbatch_value
from hpcvlm.resources import shipped_models
from hpcvlm.site.load import load_site
from hpcvlm.system.files import FolderOfTexts

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
UPDATE = bool(os.environ.get("HPCVLM_UPDATE_GOLDEN"))

GPU_SITE = """
schema: 1
engines:
  - {version: 0.9.1, image: /shared/images/vllm-0.9.1.sif}
  - {version: 0.10.2, image: /shared/images/vllm-0.10.2.sif}
hub_caches: [/shared/hub]
cache_root: /scratch/u/cache
"""
STRICT_SITE = """
schema: 1
partition: gpu
account: proj-1
qos: interactive
gpu_request: gres
cpus_per_gpu: 8
memory_per_gpu: 60G
modules: [apptainer/1.4]
runtime: singularity
listen: loopback
media_root: /shared/pictures
binds: ['/shared/certificates:/etc/ssl/certs']
engines:
  - {version: 0.33.0, image: /shared/images/vllm-0.33.0.sif, environment: {NCCL_DEBUG: WARN}}
"""
LOCAL_SITE = """
schema: 1
runtime: none
engines: [{version: 0.32.0, command: [/opt/vllm/bin/vllm]}]
"""

PODMAN_SITE = """
schema: 1
runtime: podman
scratch_root: /scratch/$USER
proxy: {https: 'http://proxy.example.org:3128', no_proxy: [.example.org]}
engines: [{version: 0.33.0, image: 'docker.io/vllm/vllm-openai:v0.33.0'}]
"""

STAGING = """
staging: {folder: $TMPDIR, always: true, streams: 16, check: hashes}
"""
STAGED_SITE = GPU_SITE + STAGING
STAGED_LOCAL_SITE = LOCAL_SITE + STAGING.replace("hashes", "hashes, keep: true, prefetch: never")
STAGED_PODMAN_SITE = PODMAN_SITE + STAGING
IMAGE_OF_SNAPSHOT = "/shared/images of models/tiny.sqsh"

SHAPES: dict[str, tuple[str, LaunchRequest, str]] = {
    "llama-3.2-11b-vision": (
        GPU_SITE,
        LaunchRequest("llama-3.2-11b-vision", gpus="A100:4", time="2:00:00"),
        "slurm",
    ),
    "qwen2.5-vl-7b-strict-site": (
        STRICT_SITE,
        LaunchRequest("qwen2.5-vl-7b", gpus="H100:2", constraint="nvme&ib"),
        "slurm",
    ),
    "tiny-vlm-local": (LOCAL_SITE, LaunchRequest("tiny-vlm", gpus="0"), "local"),
    "podman": (PODMAN_SITE, LaunchRequest("qwen2.5-vl-7b", gpus="1"), "local"),
    "docker-rocm": (
        "schema: 1\nruntime: docker\ngpu_flag: --rocm\n",
        LaunchRequest("qwen2.5-vl-7b", gpus="1", engine_version="0.19.0"),
        "local",
    ),
    "text-only": (
        LOCAL_SITE,
        LaunchRequest("tiny-vlm", gpus="1", settings=("multimodal.limit_per_prompt.image=0",)),
        "local",
    ),
    "staged": (STAGED_SITE, LaunchRequest("llama-3.2-11b-vision", gpus="A100:4"), "slurm"),
    "staged-local": (STAGED_LOCAL_SITE, LaunchRequest("tiny-vlm", gpus="0"), "local"),
    "staged-podman": (STAGED_PODMAN_SITE, LaunchRequest("qwen2.5-vl-7b", gpus="1"), "local"),
    "prefetched": (GPU_SITE, LaunchRequest("llama-3.2-11b-vision", gpus="A100:4"), "slurm"),
    "snapshot-image": (
        GPU_SITE,
        LaunchRequest("tiny-vlm", gpus="1", settings=(f"snapshot.path={IMAGE_OF_SNAPSHOT}",)),
        "slurm",
    ),
}
# What plans of jobs that are kept, watched and told of say more than those above.
KEPT: dict[str, Any] = {
    "name": "golden~2",
    "endpoint": "golden",
    "generation": 2,
    "predecessor": "/home/u/.hpcvlm/jobs/golden",
    "idle_s": 1800,
    "restarts": 3,
    "lease_s": 90,
    "notify": PlannedNotify(
        ("ready", "failed", "expiring", "ended"),
        ("/opt/site/tell", "it's $HOME"),
        "/home/u/.config/hook",
        "u@example.org",
    ),
}
CHANGES: dict[str, dict[str, Any]] = {
    "kept": KEPT,
    "kept-on-socket": {**KEPT, "listen": "socket"},
    "podman-on-socket": {"listen": "socket"},
}
SHAPES["kept"] = SHAPES["llama-3.2-11b-vision"]
SHAPES["kept-on-socket"] = SHAPES["qwen2.5-vl-7b-strict-site"]
SHAPES["podman-on-socket"] = SHAPES["podman"]
# Shapes whose snapshot is on disk, with these files.
FILES = (
    StagedFile("config.json", 1200, "a" * 64),
    StagedFile('it\'s a "file" $(HOME).txt', 7),
    StagedFile("model-00001-of-00002.safetensors", 5_000_000_000, "b" * 64),
    StagedFile("model-00002-of-00002.safetensors", 3_000_000_000, "c" * 64),
    StagedFile("original/consolidated.00.pth", 8_000_000_000, "d" * 64),
    StagedFile("processor/extra.json", 0),
)
ON_DISK = ("staged", "staged-local", "staged-podman", "prefetched")


def plan_of(
    site_text: str, request: LaunchRequest, executor: str, *, on_disk: bool = False
) -> LaunchPlan:
    """A plan whose surroundings are always the same."""
    layers = [Layer("shipped", FolderOfTexts(shipped_models()))]
    spec = apply_settings(find_model(request.model, layers), request.settings).spec
    site, _ = load_site([("site", "site.yaml", site_text)])
    commit = "c" * 40
    image = spec.snapshot.path
    repository = "/shared/hub/models--" + spec.snapshot.repo.replace("/", "--")
    found = Surroundings(
        executor=executor,
        name="golden",
        folder="/home/u/.hpcvlm/jobs/golden",
        cluster=None,
        snapshot=PlannedSnapshot(
            spec.snapshot.repo,
            commit,
            "/snapshot" if image else f"{repository}/snapshots/{commit}",
            image or repository,
            image,
        ),
        snapshot_problems=(),
        attention_heads=None,
        images_on_disk=frozenset(e.image for e in site.engines if e.image),
        cache_root=site.cache_root or "/home/u/.hpcvlm/cache",
        sources={},
        files=FILES if on_disk else (),
        weight_bytes=8_000_000_000 if on_disk else None,
    )
    result = build_plan(request, spec, site, found)
    assert result.issues == ()
    return result.plan


def shape(name: str) -> LaunchPlan:
    plan = plan_of(*SHAPES[name], on_disk=name in ON_DISK)
    return replace(plan, **CHANGES.get(name, {}))


def script_of(plan: LaunchPlan) -> str:
    return render_job(plan, materials()).script


@pytest.mark.parametrize("name", SHAPES)
def test_golden(name: str) -> None:
    script = script_of(shape(name)).replace(f"hpcvlm {__version__}", "hpcvlm VERSION")
    path = GOLDEN / f"{name}.sbatch"
    if UPDATE:
        path.write_text(script)
    assert script == path.read_text()


@pytest.mark.parametrize("name", SHAPES)
def test_bash_and_shellcheck_have_nothing_to_say(name: str, tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    path.write_text(script_of(shape(name)))
    assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).stderr == b""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (scripts/setup/slurm_packages.sh installs it)")
    done = subprocess.run(["shellcheck", path], capture_output=True, text=True, check=False)
    assert done.stdout == ""


def test_the_llama_script_does_all_that_a_hand_written_one_does() -> None:
    plan = plan_of(*SHAPES["llama-3.2-11b-vision"])
    script = script_of(plan)
    options = {option.name: option.value for option in plan.sbatch}
    assert options["gpus-per-node"] == "A100:4"
    assert options["time"] == "02:00:00"
    assert "#SBATCH --gpus-per-node=A100:4\n" in script
    argv = plan.engine_arguments
    for flag, value in {
        "--tensor-parallel-size": "4",
        "--max-model-len": "10000",
        "--tool-call-parser": "llama3_json",
        "--gpu-memory-utilization": "0.5",
        "--max-num-seqs": "16",
        "--limit-mm-per-prompt": '{"image":2,"video":1}',
        "--allowed-local-media-path": "/home/u/.hpcvlm/jobs/golden/media",
        "--served-model-name": "neuralmagic/Llama-3.2-11B-Vision-Instruct-quantized.w4a16",
        "--middleware": "hpcvlm_guard.KeyGuard",
    }.items():
        assert argv[argv.index(flag) + 1] == value
    assert {"--enable-auto-tool-choice", "--enforce-eager"} <= set(argv)
    assert plan.engine.image == "/shared/images/vllm-0.10.2.sif"
    assert '--port "$port"' in script
    assert "--nv --containall --no-home" in script
    assert "--api-key" not in argv


def test_a_strict_site_is_obeyed() -> None:
    plan = plan_of(*SHAPES["qwen2.5-vl-7b-strict-site"])
    options = {option.name: option.value for option in plan.sbatch}
    assert options["gres"] == "gpu:H100:2"
    assert "gpus-per-node" not in options
    assert options["cpus-per-task"] == "16"
    assert (options["partition"], options["account"]) == ("gpu", "proj-1")
    assert (options["qos"], options["constraint"]) == ("interactive", "nvme&ib")
    assert plan.listen_host == "127.0.0.1"
    assert plan.media_root == "/shared/pictures"
    assert ("NCCL_DEBUG", "WARN") in plan.environment
    assert "singularity exec --nv" in script_of(plan)
    assert "SINGULARITYENV_$assignment" in script_of(plan)


def heard(script: str, tmp_path: Path) -> list[str]:
    """The arguments that bash makes of the script's array."""
    array = re.search(r"^engine_arguments=\(\n.*?^\)$", script, re.MULTILINE | re.DOTALL)
    assert array is not None
    program = tmp_path / "array.sh"
    program.write_text(f"{array[0]}\nprintf '%s\\0' \"${{engine_arguments[@]}}\"\n")
    done = subprocess.run(["bash", program], capture_output=True, check=True, cwd=tmp_path)
    return done.stdout.decode().split("\0")[:-1]


nasty = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Cf", "Zl", "Zp"])
    | st.sampled_from("'\"\\$`(){}|&;<>*?!# ~=,-"),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(nasty, min_size=1, max_size=5))
def test_every_argument_reaches_bash_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, values: Sequence[str]
) -> None:
    plan = plan_of(*SHAPES["tiny-vlm-local"])
    hostile = replace(plan, engine_arguments=(*values, json.dumps({"k": list(values)})))
    folder = tmp_path_factory.mktemp("bash")
    assert heard(script_of(hostile), folder) == list(hostile.engine_arguments)
    assert [path.name for path in folder.iterdir()] == ["array.sh"]


@settings(max_examples=40, deadline=None)
@given(st.lists(nasty, min_size=6, max_size=6), st.lists(nasty, max_size=3))
def test_every_path_variable_and_option_stays_where_it_was_put(
    tmp_path_factory: pytest.TempPathFactory, values: Sequence[str], more: Sequence[str]
) -> None:
    plan = plan_of(*SHAPES["llama-3.2-11b-vision"])
    folder, snapshot, media_root, cache, image, name = values
    environment = tuple((f"NAME{number}", value) for number, value in enumerate(more))
    hostile = replace(
        plan,
        folder=folder,
        snapshot=replace(plan.snapshot, path=snapshot),
        media_root=media_root,
        cache=cache,
        engine=replace(plan.engine, image=image),
        served_name=name,
        model=name,
        environment=environment,
        sbatch=(*plan.sbatch, *(SbatchOption("comment", value) for value in more)),
    )
    script = script_of(hostile)
    head, _, rest = script.partition("\nfolder=")
    assert head.count("\n#SBATCH ") == len(hostile.sbatch)
    assert all(line.startswith("#") for line in head.split("\n")[: len(hostile.sbatch) + 4])
    # Everything up to the arguments, without what would act, and then what came of it.
    array = re.search(r"^engine_environment=\(\n.*?^\)$", script, re.MULTILINE | re.DOTALL)
    assert array is not None
    names = "folder snapshot media_root cache container_image"
    shown = " ".join(f'"${name}"' for name in names.split())
    program = tmp_path_factory.mktemp("bash") / "values.sh"
    program.write_text(
        f"folder={rest.partition(chr(10) + '# What the engine is told')[0]}\n{array[0]}\n"
        f"printf '%s\\0' {shown} \"${{engine_environment[@]}}\"\n"
    )
    done = subprocess.run(["bash", program], capture_output=True, check=True, cwd=program.parent)
    heard = done.stdout.decode().split("\0")[:-1]
    pairs = [f"{name}={value}" for name, value in environment]
    assert heard == [folder, snapshot, media_root, cache, image, *pairs]
    assert [path.name for path in program.parent.iterdir()] == ["values.sh"]


@pytest.mark.parametrize("bad", ["a\nb", "a\0b", "a\tb", "a\rb"])
@pytest.mark.parametrize("place", ["served_name", "folder", "engine_arguments", "sbatch"])
def test_control_characters_are_refused(place: str, bad: str) -> None:
    plan = plan_of(*SHAPES["tiny-vlm-local"])
    values: dict[str, object] = {
        "engine_arguments": (bad,),
        "sbatch": (SbatchOption("comment", bad),),
    }
    broken = replace(plan, **{place: values.get(place, bad)})  # type: ignore[arg-type]
    with pytest.raises(HpcvlmError) as error:
        script_of(broken)
    assert error.value.code == "value-unsafe"
    assert place in error.value.sentence


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("A100:4", "A100:4"),
        ("B:TERM@60", "B:TERM@60"),
        ("/a b/c", '"/a b/c"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash #", '"back\\\\slash #"'),
        ("", '""'),
    ],
)
def test_sbatch_values_are_quoted_as_sbatch_reads_them(value: str, line: str) -> None:
    assert sbatch_value(value) == line


def test_the_same_plan_gives_the_same_bytes() -> None:
    name = "llama-3.2-11b-vision"
    assert script_of(shape(name)) == script_of(shape(name))
