"""What a build will do, decided before anything is changed; and the script that does it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.containers import order as orders
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_order import BuildRequest, Order, make_order
from hpcvlm.ops.context import Context
from hpcvlm.site.schema import Images, PartitionSpec, Proxy, SiteSpec
from hpcvlm.system.settings import Settings

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    settings = Settings(tmp_path / "state", tmp_path / "config", tmp_path / "site.yaml")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return Context(settings, {"HOME": str(tmp_path / "home"), "PATH": path})


def ordered(ctx: Context, site: SiteSpec | None = None, **asked: Any) -> Order:
    request = BuildRequest(**{"version": "0.10.2", **asked})
    return make_order(request, site or SiteSpec(), ctx)


def refused(ctx: Context, site: SiteSpec | None = None, **asked: Any) -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        ordered(ctx, site, **asked)
    return caught.value


# ---- words of an address ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "version", "host"),
    [
        ("docker://vllm/vllm-openai:v0.10.2", "0.10.2", "docker.io"),
        ("docker://mirror.org:5000/vllm/vllm-openai:v0.11.0", "0.11.0", "mirror.org:5000"),
        (f"docker://vllm/vllm-openai@{DIGEST}", "", "docker.io"),
        (f"docker://quay.io/x/y:0.9.1@{DIGEST}", "0.9.1", "quay.io"),
        ("docker://localhost/x:latest", "", "localhost"),
        ("oci:/data/layout", "", ""),
        ("/data/vllm-0.10.2.sif", "0.10.2", ""),
    ],
)
def test_addresses(source: str, version: str, host: str) -> None:
    assert orders.version_in(source) == version
    assert orders.host_of(source) == host
    assert orders.pinned(source) == (DIGEST if "@" in source else "")


@pytest.mark.parametrize(
    ("rocm", "other", "name"),
    [
        (False, False, "vllm-0.20.0.sif"),
        (True, False, "vllm-0.20.0.sif"),
        (True, True, "vllm-0.20.0+rocm.sif"),
        (False, True, "vllm-0.20.0+cuda.sif"),
    ],
)
def test_a_name_says_what_this_site_does_not_have(rocm: bool, other: bool, name: str) -> None:
    assert orders.image_name("vllm", "0.20.0", rocm=rocm, other=other) == name


# ---- decisions --------------------------------------------------------------------------------


def test_the_image_is_where_a_launch_looks(ctx: Context, tmp_path: Path) -> None:
    assert ordered(ctx).order.image == str(tmp_path / "state" / "containers" / "vllm-0.10.2.sif")
    folder = SiteSpec(image_folder="/images")
    assert ordered(ctx, folder).order.image == "/images/vllm-0.10.2.sif"
    assert ordered(ctx, folder, version="v0.10.2").order.version == "0.10.2"


def test_a_mirror_stands_in_for_docker_hub(ctx: Context) -> None:
    site = SiteSpec(images=Images(registry="https://mirror.org/proxy"))
    build = ordered(ctx, site).order.build
    assert "REGISTRY=mirror.org/proxy" in build
    assert "--no-https" not in build
    plain = ordered(ctx, SiteSpec(images=Images(registry="http://127.0.0.1:5000")))
    assert "--no-https" in plain.order.build
    assert plain.source == "docker://127.0.0.1:5000/vllm/vllm-openai:v0.10.2"


def test_amd_s_gpus_get_amd_s_image(ctx: Context) -> None:
    by_site = ordered(ctx, SiteSpec(gpu_flag="--rocm"), version="0.20.0")
    assert "From: vllm/vllm-openai-rocm:v{{ VERSION }}" in by_site.definition
    assert by_site.order.image.endswith("/vllm-0.20.0.sif")
    asked = ordered(ctx, version="0.20.0", rocm=True)
    assert asked.order.image.endswith("/vllm-0.20.0+rocm.sif")
    assert "VERSION=0.20.0" in asked.order.build


def test_space_is_asked_for_where_it_is_known(ctx: Context, tmp_path: Path) -> None:
    assert ordered(ctx).order.need_temporary == 43 * 10**9
    assert ordered(ctx, check_space=False).order.need_temporary == 0
    own = tmp_path / "own.def"
    own.write_text("Bootstrap: scratch\n")
    assert ordered(ctx, definition=str(own)).order.need_temporary == 0


def test_folders_are_the_site_s(ctx: Context) -> None:
    site = SiteSpec(images=Images(temporary="$TMPDIR/x", cache="$HOME/layers"))
    made = ordered(ctx, site)
    assert 'temporary="$TMPDIR/x"' in made.script
    assert made.order.cache == f"{ctx.environment['HOME']}/layers"
    assert ordered(ctx).order.cache == f"{ctx.environment['HOME']}/.apptainer/cache"


def test_a_job_asks_as_the_site_says(ctx: Context) -> None:
    site = SiteSpec(
        account="main",
        constraint="a100",
        partition="gpu",
        partitions={"build": PartitionSpec(account="builders", qos="long")},
        images=Images(build_as="job", partition="build", time="3h"),
        sbatch={"reservation": "r1", "time": "1"},
    )
    made = ordered(ctx, site)
    said = {option.name: option.value for option in made.order.sbatch}
    assert made.where == "job"
    assert (said["partition"], said["account"], said["qos"]) == ("build", "builders", "long")
    assert (said["time"], said["reservation"], said["cpus-per-task"]) == ("03:00:00", "r1", "4")
    assert "constraint" not in said, "features of GPU nodes are none of a build's business"
    assert not any("gpu" in name or name == "gres" for name in said)
    assert ordered(ctx, site, where="here").order.sbatch == ()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"version": "0.1.0"}, "vllm-version"),
        ({"version": "banana"}, "vllm-version"),
        ({"version": ""}, "option-required"),
        ({"where": "there"}, "option-invalid"),
        ({"definition": "/nowhere.def"}, "file-unreadable"),
        ({"source": "/nowhere.sif"}, "container-missing"),
        ({"source": "oci:/nowhere"}, "container-missing"),
        ({"source": "docker://x/y@sha256:12"}, "option-invalid"),
        ({"output": "/tmp"}, "container-exists"),
        ({"output": "/tmp/a\nb"}, "value-unsafe"),
    ],
)
def test_refusals(ctx: Context, asked: dict[str, Any], code: str) -> None:
    found = refused(ctx, **asked)
    assert found.code == code
    assert found.remedy


def test_an_image_that_is_there_is_not_replaced_unasked(ctx: Context, tmp_path: Path) -> None:
    there = tmp_path / "there.sif"
    there.touch()
    assert refused(ctx, output=str(there)).code == "container-exists"
    assert ordered(ctx, output=str(there), force=True).order.replace


@pytest.mark.parametrize("runtime", ["docker", "podman", "none"])
def test_runtimes_without_image_files(ctx: Context, runtime: str) -> None:
    site = SiteSpec(runtime=runtime)  # type: ignore[arg-type]
    found = refused(ctx, site)
    assert found.code == "container-unsupported"
    if runtime != "none":
        assert found.remedy == f"{runtime} pull docker.io/vllm/vllm-openai:v0.10.2"


def test_singularity_has_its_own_variables(ctx: Context) -> None:
    script = ordered(ctx, SiteSpec(runtime="singularity")).script
    assert "export SINGULARITY_TMPDIR=" in script
    assert "singularity build" in script


# ---- the script -------------------------------------------------------------------------------

SITES = {
    "plain": SiteSpec(),
    "job": SiteSpec(
        modules=("apptainer/1.4", "odd name"),
        images=Images(build_as="job", temporary="$TMPDIR/a", cache="/cache/it's"),
        proxy=Proxy(https="http://proxy:3128", no_proxy=("a", "b")),
        sbatch={"exclusive": "", "mail-type": "END"},
    ),
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("source", [None, "docker://x/it's $(touch x):v0.10.2"])
def test_bash_and_shellcheck_have_nothing_to_say(
    ctx: Context, tmp_path: Path, name: str, source: str | None
) -> None:
    script = tmp_path / "build.sbatch"
    script.write_text(ordered(ctx, SITES[name], source=source).script)
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (scripts/setup/slurm_packages.sh installs it)")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def runtime(tmp_path: Path, build: str, *, version: str = "0.10.2") -> None:
    """An apptainer that does as it is told; $3 is the image that `build` is to make."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    file = folder / "apptainer"
    file.write_text(
        "#!/bin/bash\n"
        f'echo called "$1" >>{tmp_path}/calls\n'
        f"if [ \"$1\" = exec ]; then echo '{version}'; exit; fi\n"
        "for word; do case $word in *.partial-*) out=$word;; esac; done\n"
        f'echo "$APPTAINER_TMPDIR" >{tmp_path}/tmpdir\n'
        f'touch "$APPTAINER_TMPDIR/rootfs"\n{build}\n'
    )
    file.chmod(0o755)


def script_of(ctx: Context, tmp_path: Path, **asked: Any) -> tuple[Order, Path]:
    made = ordered(ctx, output=str(tmp_path / "image.sif"), check_space=False, **asked)
    folder = Path(made.order.folder)
    folder.mkdir(parents=True)
    script = folder / "build.sbatch"
    script.write_text(made.script)
    return made, script


def run(ctx: Context, script: Path) -> tuple[int, str]:
    done = subprocess.run(
        ["bash", script], env=dict(ctx.environment), capture_output=True, text=True, check=False
    )
    result = script.with_name("result")
    return done.returncode, result.read_text().partition("\t")[0] if result.exists() else ""


def left(tmp_path: Path) -> list[str]:
    """What a build has left of what it may not leave."""
    scratch = Path((tmp_path / "tmpdir").read_text().strip())
    found = [str(scratch)] if scratch.exists() else []
    return found + [str(file) for file in tmp_path.glob("*.partial-*")]


def test_an_image_gets_its_name_when_it_is_whole(ctx: Context, tmp_path: Path) -> None:
    runtime(tmp_path, 'echo image >"$out"')
    made, script = script_of(ctx, tmp_path)
    assert run(ctx, script) == (0, "whole")
    assert Path(made.order.image).read_text() == "image\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("build", "version", "kind"),
    [
        ('echo half >"$out"; exit 3', "0.10.2", "build"),
        ("true", "0.10.2", "build"),
        ('echo image >"$out"', "0.9.1", "version"),
        ('echo image >"$out"', "", "version"),
    ],
)
def test_what_fails_half_way_leaves_nothing(
    ctx: Context, tmp_path: Path, build: str, version: str, kind: str
) -> None:
    runtime(tmp_path, build, version=version)
    made, script = script_of(ctx, tmp_path)
    assert run(ctx, script) == (1, kind)
    assert not Path(made.order.image).exists()
    assert left(tmp_path) == []


def test_an_image_that_appears_meanwhile_is_not_overwritten(ctx: Context, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    runtime(tmp_path, f'echo ours >"$out"; echo theirs >{image}')
    _, script = script_of(ctx, tmp_path)
    assert run(ctx, script) == (1, "exists")
    assert image.read_text() == "theirs\n"
    assert left(tmp_path) == []


def test_a_job_that_comes_too_late_builds_nothing(ctx: Context, tmp_path: Path) -> None:
    runtime(tmp_path, 'echo ours >"$out"')
    _, script = script_of(ctx, tmp_path)
    (tmp_path / "image.sif").write_text("theirs")
    assert run(ctx, script) == (1, "exists")
    assert not (tmp_path / "calls").exists()


def test_a_replaced_image_lives_on_for_whoever_has_it_open(ctx: Context, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.write_text("old")
    runtime(tmp_path, 'echo new >"$out"')
    _, script = script_of(ctx, tmp_path, force=True)
    with image.open() as held:
        assert run(ctx, script) == (0, "whole")
        assert held.read() == "old"
    assert image.read_text() == "new\n"


def test_a_failed_replacement_leaves_the_old_image(ctx: Context, tmp_path: Path) -> None:
    image = tmp_path / "image.sif"
    image.write_text("old")
    runtime(tmp_path, 'echo half >"$out"; exit 1')
    _, script = script_of(ctx, tmp_path, force=True)
    assert run(ctx, script) == (1, "build")
    assert image.read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_build_and_cleans_up(
    ctx: Context, tmp_path: Path, number: signal.Signals
) -> None:
    runtime(tmp_path, 'echo half >"$out"; echo $$ >"$out.pid"; exec sleep 60')
    made, script = script_of(ctx, tmp_path)
    pid_file = Path(f"{made.order.partial}.pid")
    with subprocess.Popen(
        ["bash", script],
        env=dict(ctx.environment),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        until = time.monotonic() + 20
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < until:
            time.sleep(0.02)
        child = int(pid_file.read_text())
        process.send_signal(number)
        assert process.wait(20) == 143
    assert script.with_name("result").read_text().startswith("stopped\t")
    assert not Path(f"/proc/{child}").exists()
    pid_file.unlink()
    assert left(tmp_path) == []


def test_a_disk_that_is_too_small_is_told_before_anything_is_built(
    ctx: Context, tmp_path: Path
) -> None:
    runtime(tmp_path, 'echo image >"$out"')
    made, script = script_of(ctx, tmp_path)
    text = made.script.replace('need "$cache" 0 cache', f'need "$cache" {10**17} cache')
    assert text != made.script
    script.write_text(text)
    assert run(ctx, script) == (1, "space")
    kind, key, folder, need, free = script.with_name("result").read_text().strip().split("\t")
    assert (kind, key, folder) == ("space", "cache", made.order.cache)
    assert int(need) == 10**17 > int(free)
    assert not (tmp_path / "calls").exists()
