"""hpcvlm containers with a real Apptainer: built, pulled, read, signed, altered, replaced."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.ops.containers_order import BuildRequest, make_order
from hpcvlm.ops.containers_verify import image_issues
from hpcvlm.ops.context import Context
from hpcvlm.site.schema import Images, SiteSpec
from hpcvlm.system.settings import Settings
from tests.command import Command
from tests.container_images import (
    altered,
    definition,
    image,
    key_ring,
    need_parts,
    registry_image,
)
from tests.realparts import CpuSif, SlurmCluster
from tests.registry_stand_in import Registry, SmallImage, registry

NOBODY = 65534

pytestmark = [pytest.mark.slow, pytest.mark.apptainer]


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    command = Command(tmp_path, {"HOME": str(home), "APPTAINER_KEYSDIR": str(tmp_path / "keys")})
    site(command)
    return command


def site(command: Command, **images: object) -> None:
    """A site whose images lie beside its state."""
    folder = command.state.parent
    images.setdefault("cache", str(folder / "cache"))
    (folder / "tmp").mkdir(exist_ok=True)
    images.setdefault("temporary", str(folder / "tmp"))
    command.site(
        json.dumps({"schema": 1, "image_folder": str(folder / "images"), "images": images})
    )


def images_of(command: Command) -> Path:
    folder = command.state.parent / "images"
    folder.mkdir(exist_ok=True)
    return folder


def nothing_left(command: Command) -> bool:
    """No half image, and nothing unpacked."""
    folder = command.state.parent
    return not list(images_of(command).glob("*.partial-*")) and not list((folder / "tmp").iterdir())


# ---- build ------------------------------------------------------------------------------------


def test_a_build_is_read_compared_and_remembered(hpcvlm: Command, tmp_path: Path) -> None:
    own = definition(tmp_path / "def")
    done = hpcvlm("containers", "build", "0.10.2", "--def", str(own), "--json")
    assert done.code == 0, done.stderr
    made = done.json()
    assert made["image"] == str(tmp_path / "images" / "vllm-0.10.2.sif")
    assert made["facts"]["engine"] == "0.10.2"
    assert made["facts"]["cuda"] == "12.8"
    assert made["source"] == str(own)
    (listed,) = hpcvlm("containers", "ls", "--json").json()["images"]
    assert listed["sha256"] == made["sha256"]
    assert listed["facts"] == made["facts"]
    assert listed["problems"] == []
    assert nothing_left(hpcvlm)


def test_a_definition_that_fails_half_way(hpcvlm: Command, tmp_path: Path) -> None:
    own = definition(tmp_path / "def", post="echo telling words >&2; exit 3")
    done = hpcvlm("containers", "build", "0.10.2", "--def", str(own))
    assert done.code == 1
    assert "while running %post section: exit status 3" in done.stderr
    log = Path(done.stderr.splitlines()[-1].split()[-1])
    assert "telling words" in log.read_text()
    assert list(images_of(hpcvlm).iterdir()) == []
    assert nothing_left(hpcvlm)


def test_another_version_than_asked_for_is_no_image(hpcvlm: Command, tmp_path: Path) -> None:
    own = definition(tmp_path / "def", version="0.9.1")
    done = hpcvlm("containers", "build", "0.10.2", "--def", str(own))
    assert done.code == 1
    assert "holds vllm 0.9.1, not 0.10.2; no image was made" in done.stderr
    assert list(images_of(hpcvlm).iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_nothing(hpcvlm: Command, tmp_path: Path, number: signal.Signals) -> None:
    own = definition(tmp_path / "def", post="sleep 120")
    with hpcvlm.start("containers", "build", "0.10.2", "--def", str(own)) as process:
        until = time.monotonic() + 60
        while not list((tmp_path / "tmp").glob("*/*/rootfs")) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "interrupted; no image was made" in stderr
    assert nothing_left(hpcvlm)


def test_a_full_disk(hpcvlm: Command, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], check=True)
    try:
        site(hpcvlm, temporary=str(small))
        shipped = hpcvlm("containers", "build", "0.10.2")
        own = definition(tmp_path / "def")
        full = hpcvlm("containers", "build", "0.10.2", "--def", str(own))
        left = list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)
    assert shipped.code == 4
    assert "has 0.0 GB free, and the build needs about 43.0 GB there" in shipped.stderr
    assert "'temporary:' under 'images:'" in shipped.stderr
    assert full.code != 0
    assert "Traceback" not in full.stderr
    assert left == []
    assert list(images_of(hpcvlm).iterdir()) == []


def test_an_ordinary_user_builds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("every build here is an ordinary user's; only root may become another one")
    folder = Path(tempfile.mkdtemp(prefix="hpcvlm-nobody-"))  # pytest's own are closed to others
    try:
        own = definition(folder / "def")
        environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "TMPDIR": str(folder)}
        ctx = Context(Settings(folder / "state", folder, folder), environment)
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        request = BuildRequest("0.10.2", str(own), output=str(folder / "vllm-0.10.2.sif"))
        made = make_order(request, SiteSpec(), ctx)
        assert "--fakeroot" not in made.order.build
        script = Path(made.order.folder) / "build.sbatch"
        script.parent.mkdir(parents=True)
        script.write_text(made.script)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        done = subprocess.run(
            [*drop, "bash", script], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert Path(made.order.image).stat().st_uid == NOBODY
        assert not list(folder.glob("hpcvlm-build.*"))
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_may_not_be_written(hpcvlm: Command, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a read-only disk")
    folder = images_of(hpcvlm)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", folder], check=True)
    try:
        own = definition(tmp_path / "def")
        done = hpcvlm("containers", "build", "0.10.2", "--def", str(own))
    finally:
        subprocess.run(["umount", folder], check=True)
    assert done.code == 1
    assert f"cannot write to {folder}" in done.stderr
    assert nothing_left(hpcvlm)


# ---- the registry -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> SmallImage:
    need_parts()
    return registry_image()


@pytest.fixture
def hub(small: SmallImage) -> Iterator[Registry]:
    with registry(small) as running:
        yield running


def test_the_shipped_definition_builds_from_a_mirror(hpcvlm: Command, hub: Registry) -> None:
    site(hpcvlm, registry=f"http://{hub.host}")
    done = hpcvlm("containers", "build", "0.10.2", "--no-space-check", "--json")
    assert done.code == 0, done.stderr
    made = done.json()
    assert made["labels"]["org.hpcvlm.version"] == "0.10.2"
    assert made["source"] == f"docker://{hub.host}/vllm/vllm-openai:v0.10.2"
    assert "/v2/vllm/vllm-openai/manifests/v0.10.2" in hub.asked


def test_a_pull_that_is_pinned(hpcvlm: Command, hub: Registry) -> None:
    site(hpcvlm, registry=f"http://{hub.host}")
    source = f"docker://{hub.host}/vllm/vllm-openai@{hub.image.digest}"
    options = ("--version", "0.10.2", "--no-space-check", "--json")
    done = hpcvlm("containers", "pull", source, *options)
    assert done.code == 0, done.stderr
    assert done.json()["source"] == source


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("401", 4, "does not let you have it"),
        ("404", 3, "has no such image"),
        ("500", 1, "does not answer as it should"),
        ("cut", 1, "does not answer as it should"),
        ("digest", 1, "is not what it should be"),
        ("layer", 1, "is not what it should be"),
    ],
)
def test_registries_that_fail(
    hpcvlm: Command, hub: Registry, fault: str, code: int, words: str
) -> None:
    site(hpcvlm, registry=f"http://{hub.host}")
    hub.fault = fault
    name = f"@{hub.image.digest}" if fault == "digest" else ":v0.10.2"
    source = f"docker://{hub.host}/vllm/vllm-openai{name}"
    done = hpcvlm("containers", "pull", source, "--version", "0.10.2", "--no-space-check")
    assert "no image was made: " in done.stderr
    assert words in done.stderr
    assert done.code == code
    assert nothing_left(hpcvlm)
    assert list(images_of(hpcvlm).iterdir()) == []


def test_a_registry_that_is_away(hpcvlm: Command) -> None:
    done = hpcvlm("containers", "pull", "docker://127.0.0.1:1/x/y:v0.10.2", "--no-space-check")
    assert done.code == 1
    assert "127.0.0.1:1 does not answer as it should" in done.stderr


def test_an_oci_layout(hpcvlm: Command, small: SmallImage, tmp_path: Path) -> None:
    layout = small.write_layout(tmp_path / "layout")
    done = hpcvlm("containers", "pull", f"oci:{layout}", "--version", "0.10.2", "--json")
    assert done.code == 0, done.stderr
    assert done.json()["source"] == f"oci:{layout}"


def test_a_file_keeps_its_signature(hpcvlm: Command, tmp_path: Path) -> None:
    source = image(tmp_path / "elsewhere")
    fingerprint = key_ring(tmp_path / "keys")
    assert hpcvlm("containers", "sign", str(source)).code == 0
    done = hpcvlm("containers", "pull", str(source), "--json")
    assert done.code == 0, done.stderr
    assert done.json()["claimed_signers"] == [fingerprint]
    assert hpcvlm("containers", "verify", "0.10.2").code == 0


# ---- inspect ----------------------------------------------------------------------------------


def test_an_image_is_read_once(hpcvlm: Command) -> None:
    image(images_of(hpcvlm))
    first = hpcvlm("containers", "inspect", "0.10.2", "--json").json()
    path = os.environ["PATH"]
    hpcvlm.environment["PATH"] = "/nowhere"  # no runtime any more: nothing can be asked
    second = hpcvlm("containers", "inspect", "0.10.2", "--json").json()
    hpcvlm.environment["PATH"] = path
    assert second["facts"] == first["facts"]
    assert second["sha256"] == first["sha256"]


def test_a_real_vllm_tells_its_versions(hpcvlm: Command, cpu_sif: CpuSif) -> None:
    hpcvlm.site(cpu_sif.site_yaml())
    done = hpcvlm("containers", "inspect", "0.32.0", "--json")
    assert done.code == 0, done.stderr
    facts = done.json()["facts"]
    assert facts["engine"].startswith("0.32.0")
    assert facts["torch"]
    assert facts["transformers"]
    assert (facts["cuda"], facts["hip"]) == ("", "")


def test_an_image_with_another_version_than_its_name_says(hpcvlm: Command) -> None:
    image(images_of(hpcvlm), "0.9.1", "vllm-0.10.2.sif")
    done = hpcvlm("containers", "inspect", "0.10.2")
    assert done.code == 1
    assert "holds 0.9.1 (asked inside), and not 0.10.2" in done.stderr


# ---- sign and verify --------------------------------------------------------------------------


def policy(command: Command, path: Path, *keys: str) -> list[str]:
    """What a launch would be told."""
    settings = Settings(command.state, command.config, command.state)
    spec = SiteSpec(images=Images(signed_by=keys))
    ctx = Context(settings, command.environment)
    return [issue.code for issue in image_issues(str(path), "0.10.2", spec, ctx)]


def test_signed_verified_and_let_go(hpcvlm: Command, tmp_path: Path) -> None:
    path = image(images_of(hpcvlm))
    fingerprint = key_ring(tmp_path / "keys")
    assert policy(hpcvlm, path, fingerprint) == ["container-unverified"]
    assert hpcvlm("containers", "verify", "0.10.2").code == 0, "unsigned, and nobody asks for it"
    assert policy(hpcvlm, path, fingerprint) == ["container-unsigned"]

    signed = hpcvlm("containers", "sign", "0.10.2", "--json")
    assert signed.code == 0, signed.stderr
    assert signed.json()["signers"] == [fingerprint]
    assert policy(hpcvlm, path, fingerprint) == []
    assert policy(hpcvlm, path, "00" * 20) == ["container-unsigned"]

    site(hpcvlm, signed_by=[fingerprint])
    assert hpcvlm("containers", "verify", "0.10.2").code == 0
    site(hpcvlm, signed_by=["00" * 20])
    refused = hpcvlm("containers", "verify", "0.10.2")
    assert refused.code == 1
    assert f"it is signed by {fingerprint}" in refused.stderr


def test_an_altered_image_is_named_and_not_started(hpcvlm: Command, tmp_path: Path) -> None:
    path = image(images_of(hpcvlm))
    key_ring(tmp_path / "keys")
    assert hpcvlm("containers", "sign", "0.10.2").code == 0
    altered(path, tmp_path / "altered.sif").replace(path)
    done = hpcvlm("containers", "verify", "0.10.2", "--json")
    assert done.code == 1
    found = done.json()
    assert [one["code"] for one in found["problems"]] == ["container-altered"] * 2
    assert found["engine"] is None
    assert "has been altered since it was signed: FS" in found["problems"][0]["sentence"]
    assert hpcvlm("containers", "sign", "0.10.2").code == 1, "a signature must not cover it up"
    (listed,) = hpcvlm("containers", "ls", "--json").json()["images"]
    assert listed["verified_signers"] == []
    assert [one["code"] for one in listed["problems"]] == ["container-changed"]


def test_a_key_that_is_not_here(hpcvlm: Command, tmp_path: Path) -> None:
    image(images_of(hpcvlm))
    key_ring(tmp_path / "keys")
    assert hpcvlm("containers", "sign", "0.10.2").code == 0
    hpcvlm.environment["APPTAINER_KEYSDIR"] = str(tmp_path / "other-keys")
    done = hpcvlm("containers", "verify", "0.10.2")
    assert done.code == 1
    assert "signed by a key that is not in your keyring" in done.stderr


def test_a_replaced_image_is_accepted_when_somebody_says_so(hpcvlm: Command) -> None:
    path = image(images_of(hpcvlm))
    assert hpcvlm("containers", "verify", "0.10.2").code == 0
    other = image(images_of(hpcvlm).parent / "other", cuda="12.9")
    other.replace(path)
    first = hpcvlm("containers", "verify", "0.10.2")
    assert first.code == 1
    assert "--accept" in first.stderr
    assert hpcvlm("containers", "verify", "0.10.2", "--accept").code == 0
    assert hpcvlm("containers", "verify", "0.10.2").code == 0


def test_signing_what_one_may_not_write(hpcvlm: Command) -> None:
    path = image(images_of(hpcvlm))
    if os.geteuid() == 0:
        subprocess.run(["chattr", "+i", path], check=True)
    else:
        path.chmod(0o444)
    try:
        done = hpcvlm("containers", "sign", "0.10.2")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", path], check=True)
    assert done.code == 1
    assert "Traceback" not in done.stderr


# ---- as a job ---------------------------------------------------------------------------------


@pytest.mark.slurm
def test_a_build_as_a_job(hpcvlm: Command, slurm_cluster: SlurmCluster, tmp_path: Path) -> None:
    hpcvlm.environment |= slurm_cluster.environment
    site(hpcvlm, build_as="job", partition="cpu", time="10m")
    own = definition(tmp_path / "def")
    done = hpcvlm("containers", "build", "0.10.2", "--def", str(own), "--cpus", "1", "--json")
    assert done.code == 0, done.stderr
    assert "building (job " in done.stderr
    assert done.json()["facts"]["engine"] == "0.10.2"
    again = hpcvlm("containers", "build", "0.10.2", "--def", str(own))
    assert again.code == 2
    assert nothing_left(hpcvlm)


@pytest.mark.slurm
def test_a_job_that_fails_shows_its_log(
    hpcvlm: Command, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    hpcvlm.environment |= slurm_cluster.environment
    site(hpcvlm, partition="cpu", time="10m")
    own = definition(tmp_path / "def", post="exit 3")
    options = ("--as", "job", "--cpus", "1")
    done = hpcvlm("containers", "build", "0.10.2", "--def", str(own), *options)
    assert done.code == 1
    assert "while running %post section: exit status 3" in done.stderr
    assert list(images_of(hpcvlm).iterdir()) == []


@pytest.mark.slurm
def test_ctrl_c_cancels_the_job(
    hpcvlm: Command, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    hpcvlm.environment |= slurm_cluster.environment
    site(hpcvlm, partition="cpu", time="10m")
    own = definition(tmp_path / "def", post="sleep 300")
    options = ("--as", "job", "--cpus", "1")
    with hpcvlm.start("containers", "build", "0.10.2", "--def", str(own), *options) as process:
        until = time.monotonic() + 90
        while not list((tmp_path / "tmp").glob("*/*/rootfs")) and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    listed = subprocess.run(
        ["squeue", "--noheader", "--me", "--states=PENDING,RUNNING", "--name", "hpcvlm-build"],
        env=hpcvlm.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hpcvlm-build" not in listed.stdout
    assert nothing_left(hpcvlm)


@pytest.mark.slurm
def test_ctrl_c_cancels_a_job_that_waits(
    hpcvlm: Command, slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    hpcvlm.environment |= slurm_cluster.environment
    cache = {"cache": str(tmp_path / "cache"), "partition": "cpu"}
    hpcvlm.site(json.dumps({"schema": 1, "sbatch": {"begin": "now+1hour"}, "images": cache}))
    own = definition(tmp_path / "def")
    options = ("--def", str(own), "--as", "job", "--cpus", "1")
    squeue = ("squeue", "--noheader", "--me", "--states=PENDING", "--format=%j")

    def waiting() -> str:
        done = subprocess.run(
            squeue, env=hpcvlm.environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    with hpcvlm.start("containers", "build", "0.10.2", *options) as process:
        until = time.monotonic() + 60
        while "hpcvlm-build" not in waiting() and time.monotonic() < until:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "interrupted; no image was made" in stderr
    assert "hpcvlm-build" not in waiting()
