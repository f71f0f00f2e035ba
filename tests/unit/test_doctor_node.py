"""What the node part wrote, judged; and its script, run on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.doctor import gpu, job, network, node
from hpcvlm.doctor.model import Check, Question, Status
from hpcvlm.doctor.seen import Seen, finished, host, last_step, parse_seen
from hpcvlm.errors import HpcvlmError
from hpcvlm.resources import data_root
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import EngineInstall, GpuType, SiteSpec

Q = Question("id", "node", "title")
SIF = "/images/vllm-0.33.0.sif"
INSTALL = EngineInstall(version="0.33.0", image=SIF)
BODY = (data_root() / "templates" / "sbatch" / "doctor_node.sh").read_text(encoding="utf-8")

# As the node part writes it; the nvidia-smi lines as its --query-gpu prints them.
NODE = """\
host\tgpu01\t4711\tgpu01\tgpu\t5.14.0
token\tabc
step\tlooking at the node
bash\t5.1.8(1)-release
curl\tcurl 7.76.1 (x86_64-redhat-linux-gnu) libcurl/7.76.1
gpus\t1\t0
nvidia-smi\t0\tNVIDIA A100-SXM4-80GB, 81920, 580.65.06, 8.0
gpu\tNVIDIA A100-SXM4-80GB, 81920, 580.65.06, 8.0
user-namespaces\t96365\t\t
fuse\tyes
squashfuse\t/usr/bin/squashfuse_ll
runtime\t0\tapptainer version 1.4.5
buildcfg\tAPPTAINER_SUID_INSTALL=0
memory\t68719476736\t527952896
memlock\tunlimited
shm\t/dev/shm\tyes\tno\ttmpfs\t270000000000\t260000000000
scratch\t/local/4711\tyes\tyes\txfs\t900000000000\t800000000000
scratch-from\tTMPDIR
folder\t/hub\tyes\tno\tgpfs\t1000\t500
engine-folder\t/cache\tyes\tyes\tgpfs\t1000\t500000000000
proxy\thttps_proxy\thttp://…@proxy:3128
network\t0\t200 0.120000
image\t0.33.0\t0\t100.0\t103.5\t
engine\t0.33.0\t0\t0.33.0
handshake\t1000.100\t1000.3\t1000.700
file-clock\t1000\t1000.100
finished\tyes
"""


def site(text: str = "") -> SiteSpec:
    return load_site([("site", "site.yaml", "schema: 1\n" + text)])[0]


def judged(
    text: str = NODE,
    *,
    spec: SiteSpec | None = None,
    gpus: int = 1,
    gpu_type: tuple[str, GpuType] | None = None,
    token_back: bool = True,
) -> dict[str, Check]:
    login = node.Login(
        site=spec or site(),
        token="abc",
        gpus=gpus,
        gpu_type=gpu_type,
        installs=[INSTALL],
        versions=["0.33.0"],
        weights=["/hub"],
        token_back=token_back,
    )
    return {check.id: check for check in node.judge_node(parse_seen(text), login)}


def without(*keys: str) -> str:
    """The observations without some keys."""
    lines = NODE.splitlines(keepends=True)
    return "".join(line for line in lines if line.split("\t")[0] not in keys)


def test_a_good_node() -> None:
    checks = judged()
    poor = {i: c for i, c in checks.items() if c.status is not Status.OK}
    assert list(poor) == ["node-filesystem:/hub"]  # GPFS: vLLM does not read ahead by itself
    assert poor["node-filesystem:/hub"].status is Status.WARNING
    assert checks["node-shared"].evidence.endswith("in 0.6 s")
    assert checks["node-clock"].evidence == (
        "the node's clock is 0.1 s ahead of the login node's (± 0.3 s)"
    )
    assert checks["node-gpus"].evidence == "1 x NVIDIA A100-SXM4-80GB (80 GiB)"
    assert checks["node-image:0.33.0"].evidence == (
        f"started in 3.5 s; {SIF} holds vllm 0.33.0 (asked inside)"
    )
    assert checks["node-memory"].evidence == "64 GiB by its cgroup; the node has 503 GiB"
    assert checks["node-network"].evidence == "reached, HTTP 200 in 0.1 s; set: https_proxy"


@pytest.mark.parametrize(
    ("old", "new", "check_id", "status", "words"),
    [
        ("token\tabc", "token\t", "node-shared", Status.FAILED, "does not see the file"),
        ("1000.3\t", "\t", "node-shared", Status.FAILED, "did not come back"),
        ("1000.700", "1012.0", "node-shared", Status.WARNING, "in 11.9 s"),
        ("1000.3\t1000.700", "900.0\t1000.2", "node-clock", Status.WARNING, "s ahead of"),
        ("1000.3\t1000.700", "100.0\t1000.2", "node-clock", Status.FAILED, "s ahead of"),
        ("file-clock\t1000\t", "file-clock\t1100\t", "node-file-clock", Status.WARNING, "ahead"),
        ("curl\tcurl 7", "curl\t\t7", "node-tools", Status.FAILED, "not on the node: curl"),
        ("nvidia-smi\t0", "nvidia-smi\t127", "node-gpus", Status.FAILED, "no nvidia-smi"),
        ("nvidia-smi\t0", "nvidia-smi\t127", "node-driver", Status.SKIPPED, "no nvidia-smi"),
        (
            "nvidia-smi\t0\tNVIDIA A100-SXM4-80GB",
            "nvidia-smi\t9\tNVIDIA-SMI has failed because it couldn't communicate",
            "node-gpus",
            Status.FAILED,
            "couldn't communicate",
        ),
        ("580.65.06", "570.86.15", "node-driver", Status.WARNING, "R570 can be helped"),
        ("580.65.06", "550.90.07", "node-driver", Status.FAILED, "needs driver 580"),
        ("fuse\tyes", "fuse\tno", "node-fuse", Status.WARNING, "/dev/fuse cannot be opened"),
        ("namespaces\t96365", "namespaces\t0", "node-userns", Status.FAILED, "= 0"),
        ("runtime\t0\ta", "runtime\t127\ta", "node-runtime", Status.FAILED, "no apptainer"),
        (
            "image\t0.33.0\t0\t100.0\t103.5\t",
            "image\t0.33.0\t255\t100.0\t103.5\tFATAL: could not open image",
            "node-image:0.33.0",
            Status.FAILED,
            "does not start: FATAL: could not open image",
        ),
        (
            "image\t0.33.0\t0\t100.0\t103.5\t",
            "image\t0.33.0\t124\t100.0\t190.5\t",
            "node-image:0.33.0",
            Status.FAILED,
            "no answer within 90 s",
        ),
        (
            "image\t0.33.0\t0\t100.0\t103.5\t",
            "image\t0.33.0\tmissing",
            "node-image:0.33.0",
            Status.FAILED,
            f"{SIF} cannot be read on the node",
        ),
        (
            "image\t0.33.0\t0\t100.0\t103.5\t",
            "image\t0.33.0\tlate",
            "node-image:0.33.0",
            Status.UNKNOWN,
            "no time left",
        ),
        (
            "engine\t0.33.0\t0\t0.33.0",
            "engine\t0.33.0\t0\t0.31.0",
            "node-image:0.33.0",
            Status.FAILED,
            "holds vllm 0.31.0",
        ),
        ("shm\t/dev/shm\tyes", "shm\t/dev/shm\tno", "node-shm", Status.FAILED, "no /dev/shm"),
        ("4711\tyes\tyes", "4711\tyes\tno", "node-scratch", Status.FAILED, "cannot be written"),
        ("/hub\tyes", "/hub\tno", "node-folder:/hub", Status.FAILED, "no /hub there"),
        ("/hub\tyes", "/hub\tunreadable", "node-folder:/hub", Status.FAILED, "cannot be read"),
        ("/hub\tyes", "/hub\thangs", "node-folder:/hub", Status.FAILED, "does not answer"),
        (
            "/cache\tyes\tyes",
            "/cache\tyes\tno",
            "node-writable:/cache",
            Status.FAILED,
            "cannot be written on the node",
        ),
        ("memory\t68719476736", "memory\t", "node-memory", Status.OK, "not limited"),
        ("memlock\tunlimited", "memlock\t8192", "node-memlock", Status.OK, "8.0 MiB"),
        ("network\t0\t200 0.1", "network\t6\tx", "node-network", Status.OK, "name not found"),
    ],
)
def test_nodes_with_a_fault(old: str, new: str, check_id: str, status: Status, words: str) -> None:
    assert old in NODE
    check = judged(NODE.replace(old, new))[check_id]
    assert check.status is status, check
    assert words in check.evidence
    assert check.remedy or status not in {Status.FAILED, Status.WARNING}


def test_the_node_s_answer_must_have_come_back() -> None:
    assert judged(token_back=False)["node-shared"].status is Status.FAILED


def test_modules_of_the_site() -> None:
    spec = site("modules: [Apptainer/1.3]")
    assert judged(spec=spec)["node-modules"].status is Status.OK
    said = "module\tApptainer/1.3\tmodule: command not found\n"
    check = judged(said + NODE, spec=spec)["node-modules"]
    assert (check.status, "command not found" in check.evidence) == (Status.FAILED, True)


def test_a_job_without_gpus() -> None:
    checks = judged(without("gpus", "gpu", "nvidia-smi"), gpus=0)
    assert checks["node-gpus"].status is checks["node-driver"].status is Status.SKIPPED


@pytest.mark.parametrize("length", range(0, len(NODE), 97))
def test_a_node_part_that_was_cut_off_is_judged_all_the_same(length: int) -> None:
    checks = judged(NODE[:length])
    assert not finished(parse_seen(NODE[:length]))
    assert all(check.evidence for check in checks.values())


_WORDS = st.one_of(
    st.text(alphabet=st.characters(blacklist_characters="\t\n\r"), max_size=6),
    st.sampled_from(
        ["yes", "no", "0", "127", "124", "1e400", "nan", "-1", "0.33.0", "late", "a, b"]
    ),
)
_LINES = st.lists(
    st.tuples(
        st.sampled_from(sorted({line.split("\t")[0] for line in NODE.splitlines()})),
        st.one_of(
            st.lists(_WORDS, max_size=6),
            st.lists(_WORDS, max_size=4).map(lambda words: ["0.33.0", *words]),
        ),
    ),
    max_size=25,
)


@given(lines=_LINES)
@settings(max_examples=300, deadline=None)
def test_whatever_a_node_writes_is_judged(lines: list[tuple[str, list[str]]]) -> None:
    checks = judged("".join("\t".join([key, *words]) + "\n" for key, words in lines))
    assert {"node-shared", "node-gpus", "node-image:0.33.0"} <= set(checks)
    assert all("\n" not in check.evidence + check.remedy for check in checks.values())


def test_lines_as_they_are_read() -> None:
    seen: Seen = parse_seen("host\ta\nstep\tone\nstep\ttwo\nbroken")
    assert (host(seen), last_step(seen)) == ("a", "two")
    assert "broken" not in seen
    assert finished(parse_seen(NODE))


A100 = "NVIDIA A100-SXM4-80GB, 81920, {driver}, {capability}"


def gpus_of(
    driver: str = "580.65.06", capability: str = "8.0", count: int = 1
) -> list[gpu.GpuSeen]:
    found = gpu.parse_gpu(A100.format(driver=driver, capability=capability))
    assert found is not None
    return [found] * count


@pytest.mark.parametrize(
    ("driver", "capability", "versions", "status", "words"),
    [
        ("580.65.06", "8.0", ["0.9.1", "0.33.0"], Status.OK, "enough for vLLM 0.9.1, 0.33.0"),
        ("575.57.08", "9.0", ["0.19.0"], Status.OK, "enough"),
        ("525.60.13", "8.0", ["0.10.2"], Status.OK, "enough"),
        ("470.82.01", "8.0", ["0.10.2"], Status.FAILED, "CUDA 12, which needs driver 525"),
        ("535.183.01", "8.0", ["0.20.0"], Status.WARNING, "R535 can be helped"),
        ("570.86.15", "8.0", ["0.20.0"], Status.WARNING, "R570 can be helped"),
        ("560.35.03", "8.0", ["0.20.0"], Status.FAILED, "CUDA 13, which needs driver 580"),
        ("580.65.06", "7.0", ["0.20.0"], Status.FAILED, "needs 7.5 or higher"),
        ("580.65.06", "7.0", ["0.19.0"], Status.OK, "enough"),
        ("580.65.06", "6.0", ["0.19.0"], Status.FAILED, "needs 7.0 or higher"),
        ("[N/A]", "8.0", ["0.33.0"], Status.UNKNOWN, "not a driver version"),
        ("580.65.06", "8.0", [], Status.OK, "no vLLM image"),
    ],
)
def test_drivers(
    driver: str, capability: str, versions: list[str], status: Status, words: str
) -> None:
    check = gpu.judge_driver(Q, gpus_of(driver, capability), versions, in_images=True)
    assert check.status is status, check
    assert words in check.evidence


def test_gpus_against_the_site_file() -> None:
    ok = GpuType(hardware="NVIDIA A100-SXM4-80GB", memory="80G")
    for known, status in [
        (None, Status.OK),
        (ok, Status.OK),
        (GpuType(hardware="NVIDIA H100 80GB HBM3"), Status.WARNING),
        (GpuType(memory="40G"), Status.WARNING),
    ]:
        check = gpu.judge_gpus(Q, gpus_of(), 1, "A100", known)
        assert check.status is status
        assert bool(check.remedy) == (status is not Status.OK)
    fewer = gpu.judge_gpus(Q, gpus_of(), 2, None, None)
    assert (fewer.status, "1 of 2 GPUs" in fewer.evidence) == (Status.FAILED, True)
    more = gpu.judge_gpus(Q, gpus_of(count=4), 1, None, None)
    assert (more.status, "other jobs' GPUs" in more.evidence) == (Status.WARNING, True)
    assert gpu.parse_gpu("No devices were found") is None


def test_reach() -> None:
    for addresses, outcome, status in [
        (["10.0.0.1"], "refused", Status.OK),
        (["10.0.0.1"], "open", Status.OK),
        (["10.0.0.1"], "timed out", Status.WARNING),
        (["10.0.0.1"], "No route to host", Status.WARNING),
        ([], "", Status.WARNING),
    ]:
        check = network.judge_reach("gpu01", addresses, outcome, loopback=False)
        assert check.status is status
    skipped = network.judge_reach("gpu01", [], "", loopback=True)
    assert skipped.status is Status.SKIPPED


def script(folder: Path, spec: SiteSpec, *installs: EngineInstall, url: str = "http://x") -> str:
    return job.node_script(
        BODY,
        job.job_options(spec, None, job.gpus_of("0", spec), 5, folder=str(folder)),
        folder=str(folder),
        site=spec,
        installs=installs,
        gpus=0,
        url=url,
        folders=[str(folder)],
        cache=str(folder / "new" / "cache"),
    )


def test_the_script_passes_shellcheck(tmp_path: Path) -> None:
    spec = site("modules: ['a b', \"it's\"]")
    text = script(tmp_path / "it's %j", spec, INSTALL, EngineInstall(version="0.10.2"))
    assert f"--output={tmp_path}/it's %%j/job.out" in text.replace('"', "")
    file = tmp_path / "doctor.sbatch"
    file.write_text(text)
    done = subprocess.run(["shellcheck", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    template = data_root() / "templates" / "sbatch" / "doctor_node.sh"
    subprocess.run(["shellcheck", template], check=True)


def test_the_script_refuses_line_breaks(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError) as caught:
        script(tmp_path, site(), url="http://x\nrm -rf /")
    assert caught.value.code == "value-unsafe"


def run_script(folder: Path, text: str, **environment: str) -> Seen:
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("abc")
    (folder / "answer").write_text("1000.5\n")
    (folder / "job").write_text(text)
    subprocess.run(
        ["bash", folder / "job"],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return parse_seen((folder / "seen.tsv").read_text())


def test_the_script_sees_this_machine(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $folder"
    bare = EngineInstall(version="0.33.0", command=(str(tmp_path / "no" / "vllm"),))
    text = script(folder, site("runtime: none"), bare, url="http://127.0.0.1:1/")
    seen = run_script(
        folder,
        text,
        http_proxy="http://me:secret@127.0.0.1:1",
        no_proxy="",
        TMPDIR=str(tmp_path),
    )
    assert finished(seen)
    assert host(seen) == os.uname().nodename
    assert seen["token"] == [("abc",)]
    assert seen["handshake"][0][1] == "1000.5"
    assert seen["network"][0][0] == "7"
    assert ("http_proxy", "http://…@127.0.0.1:1") in seen["proxy"]
    assert "secret" not in (folder / "seen.tsv").read_text()
    assert seen["folder"][0][:2] == (str(folder), "yes")
    # What is missing of a cache folder is made by a job: the nearest that is there is tried.
    assert [words[:3] for words in seen["engine-folder"]] == [(str(folder), "yes", "yes")]
    assert seen["engine"][0][:2] == ("0.33.0", "127")
    assert seen["scratch"][0][:3] == (str(tmp_path), "yes", "yes")
    assert not list(folder.glob(".hpcvlm-doctor.*"))
    assert len(seen["memory"][0]) == 2


def test_the_site_s_scratch_and_proxy(tmp_path: Path) -> None:
    spec = site(
        "runtime: none\nscratch_root: $HPCVLM_TEST_SCRATCH/a/$NO_SUCH_VARIABLE\n"
        "proxy: {http: 'http://127.0.0.1:1', no_proxy: [.example.org]}\n"
    )
    text = script(tmp_path / "job", spec, url="http://127.0.0.2:1/")
    seen = run_script(tmp_path / "job", text, HPCVLM_TEST_SCRATCH=str(tmp_path))
    assert seen["scratch"][0][:3] == (f"{tmp_path}/a/", "yes", "yes")
    assert seen["scratch-from"] == [("scratch_root",)]
    assert ("http_proxy", "http://127.0.0.1:1") in seen["proxy"]
    assert ("no_proxy", ".example.org") in seen["proxy"]


def test_the_script_survives_a_node_with_nothing(tmp_path: Path) -> None:
    """No curl, no timeout, no runtime: told, not died of."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "date", "mv", "uname", "sleep", "tail", "rm", "cat"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    folder = tmp_path / "job"
    seen = run_script(folder, script(folder, site(), INSTALL), PATH=str(tools))
    assert finished(seen)
    assert {words[0] for words in seen["lacking"]} >= {"timeout", "stat", "df", "mktemp"}
    assert seen["curl"] == [("",)]
    text = (folder / "seen.tsv").read_text()
    assert judged(text, gpus=0)["node-tools"].status is Status.FAILED
