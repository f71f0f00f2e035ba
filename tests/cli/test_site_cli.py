"""hpcvlm site: init with stand-ins for Slurm's commands, show, validate; and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile import validate
from tests.command import Command, Done

ROOT = Path(__file__).resolve().parents[2]
SINFO = "gpu|up|1-00:00:00|2|64|512000|gpu:a100:4(S:0-1)\ncpu*|up|infinite|9|128|256000|(null)\n"
CONFIG = """\
Configuration data as of 2026-11-01T00:00:00
AccountingStorageEnforce = associations
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = north
JobSubmitPlugins        = lua
KillWait                = 30 sec
ProctrackType           = proctrack/cgroup
SelectType              = select/cons_tres
SLURM_VERSION           = 24.05.3
TaskPlugin              = task/cgroup,task/affinity

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=gpu AllowGroups=ALL AllowAccounts=physics AllowQos=ALL Default=NO Hidden=NO \
MaxTime=1-00:00:00 State=UP TotalNodes=2 JobDefaults=(null) TRES=cpu=128,gres/gpu=8
PartitionName=cpu AllowAccounts=ALL AllowQos=ALL Default=YES MaxTime=UNLIMITED State=UP
PartitionName=secret AllowAccounts=ALL Default=NO Hidden=YES State=UP TRES=cpu=64,gres/gpu=4
"""
NODES = """\
NodeName=g1 CPUTot=64 Gres=gpu:a100:4(S:0-1) GresUsed=gpu:a100:1(IDX:0) RealMemory=512000 \
State=MIXED Partitions=gpu,secret OS=Linux 6.1 #1 SMP
NodeName=g2 CPUTot=64 Gres=gpu:a100:4(S:0-1) RealMemory=512000 State=IDLE Partitions=gpu
"""
SCONTROL = f"""#!/bin/sh
case "$*" in
*"show config"*) cat <<'END'
{CONFIG}END
;;
*"show partition"*) cat <<'END'
{PARTITIONS}END
;;
*"show node"*) cat <<'END'
{NODES}END
;;
*) echo "unexpected: $*" >&2; exit 1;;
esac
"""
SACCTMGR = """#!/bin/sh
case "$*" in
*"show associations user=$(id -un) "*) cat <<'END'
north|physics||normal|normal
north|chem||normal|normal
END
;;
*"show user $(id -un) "*) echo chem;;
*"show qos"*) printf 'normal|||\\n';;
*) echo "unexpected: $*" >&2; exit 1;;
esac
"""
APPTAINER = '#!/bin/sh\necho "apptainer version 1.4.5"\n'
WORKING = {
    "sinfo": f"#!/bin/sh\ncat <<'END'\n{SINFO}END\n",
    "scontrol": SCONTROL,
    "sacctmgr": SACCTMGR,
    "sbatch": "#!/bin/sh\nexit 1\n",
    "apptainer": APPTAINER,
}
# The commands that a login node has besides; no Slurm and no container runtime among them.
PLAIN = ("sh", "cat", "printf", "echo", "bash", "sleep", "id")


def login_node(folder: Path, programs: dict[str, str], **environment: str) -> Command:
    """The command where these programs, and a few plain ones, are all of PATH."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name in PLAIN:
        (bin_folder / name).symlink_to(shutil.which(name) or name)
    for name, text in programs.items():
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)
    given = {"PATH": str(bin_folder), "USER": "another", "HF_HOME": "", "HF_HUB_CACHE": ""}
    return Command(folder, {**given, **environment})


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    return login_node(tmp_path, WORKING)


def refused(done: Done, code: int, *words: str) -> None:
    assert done.code == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    for word in words:
        assert word in done.stderr


def read(path: Path) -> SiteSpec:
    return validate(SiteSpec, path.read_text(encoding="utf-8"), str(path))


# ---- init -------------------------------------------------------------------------------------


def test_init_writes_the_user_s_file_with_what_slurm_said(hpcvlm: Command) -> None:
    done = hpcvlm("site", "init")
    assert done.code == 0, done.stderr
    path = hpcvlm.config / "site.yaml"
    assert done.stdout == f"{path}\n"
    site = read(path)
    assert (site.name, site.executor, site.partition) == ("north", "slurm", "gpu")
    assert (site.runtime, site.gpu_request) == ("apptainer", "gpus-per-node")
    assert site.gpu_types["A100"].slurm_name == "a100"
    assert list(site.partitions) == ["gpu"]
    gpu = site.partitions["gpu"]
    assert (gpu.gpus, gpu.cpus_per_gpu, gpu.memory_per_gpu) == ({"A100": 4}, 16, "125G")
    assert gpu.account == "physics"
    text = path.read_text(encoding="utf-8")
    for words in ("# Cluster north, Slurm 24.05.3.", "# JobSubmitPlugins=lua:",
                  "# cpu: has no GPUs", "# secret: is hidden (Hidden=YES)",
                  "# Container runtimes on this machine's PATH: apptainer (1.4.5)."):  # fmt: skip
        assert words in text
    for words in ("cluster      north, Slurm 24.05.3", "GPU types    A100", "partitions   gpu",
                  "accounts     chem, physics", "containers   apptainer 1.4.5",
                  "image_folder or engines: no vllm-VERSION.sif was found"):  # fmt: skip
        assert words in done.stderr
    assert oct(path.stat().st_mode & 0o777) == "0o644"
    assert sorted(entry.name for entry in hpcvlm.config.iterdir()) == ["site.yaml"]


def test_the_new_file_is_used_by_the_next_command(hpcvlm: Command) -> None:
    assert hpcvlm("site", "init").code == 0
    rows = {row["key"]: row for row in hpcvlm("site", "show", "--json").json()}
    assert rows["partition"]["value"] == "gpu"
    assert rows["partition"]["source"] == "user"
    done = hpcvlm("render", "tiny-vlm", "--gpus", "A100:2")
    assert "#SBATCH --gpus-per-node=a100:2" in done.stdout, done.stderr
    assert "#SBATCH --account=physics" in done.stdout
    assert "#SBATCH --cpus-per-task=32" in done.stdout


def test_init_leaves_a_file_that_is_there(hpcvlm: Command) -> None:
    hpcvlm.site("name: mine\n")
    refused(hpcvlm("site", "init"), 2, "site.yaml is there already", "--force replaces it")
    assert (hpcvlm.config / "site.yaml").read_text() == "name: mine\n"
    assert hpcvlm("site", "init", "--force").code == 0
    assert read(hpcvlm.config / "site.yaml").name == "north"


def test_init_to_another_file(hpcvlm: Command, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "north.yaml"
    done = hpcvlm("site", "init", "--output", str(path))
    assert (done.code, done.stdout) == (0, f"{path}\n")
    assert f"export HPCVLM_SITE={path}" in done.stderr
    assert read(path).name == "north"
    assert not (hpcvlm.config / "site.yaml").exists()
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    refused(hpcvlm("site", "init", "-o", str(path)), 2, "is there already")


def test_init_to_stdout_writes_nothing(hpcvlm: Command) -> None:
    done = hpcvlm("site", "init", "--stdout")
    assert done.code == 0
    assert validate(SiteSpec, done.stdout, "stdout").name == "north"
    assert list(hpcvlm.config.iterdir()) == []
    refused(hpcvlm("site", "init", "--stdout", "--force"), 2, "--stdout writes no file")


def test_init_for_machines(hpcvlm: Command) -> None:
    done = hpcvlm("site", "init", "--json")
    assert done.stderr == ""
    told: Any = done.json()
    assert told["file"] == str(hpcvlm.config / "site.yaml")
    assert told["text"] == (hpcvlm.config / "site.yaml").read_text(encoding="utf-8")
    assert told["found"]["gpu_types"][0]["slurm_name"] == "a100"
    assert told["found"]["machine"]["runtimes"] == [{"name": "apptainer", "version": "1.4.5"}]
    assert any(line.startswith("hub_caches") for line in told["to_fill_in"])
    assert hpcvlm("site", "init", "--json", "--stdout").json()["file"] is None


@pytest.mark.parametrize("output", ["/dev/null/x/site.yaml", "{folder}", "{folder}/file/site.yaml"])
def test_init_where_no_file_can_be(hpcvlm: Command, tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("")
    name = output.format(folder=tmp_path)
    refused(hpcvlm("site", "init", "--output", name), 2, "try:")
    assert not list(tmp_path.glob(".site*"))


def test_init_where_slurm_is_not(tmp_path: Path) -> None:
    done = login_node(tmp_path, {})("site", "init")
    refused(done, 4, "there is no sinfo command here", "run hpcvlm on a login node")


def test_init_where_slurm_is_down(tmp_path: Path) -> None:
    sinfo = (
        "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2\nexit 1\n"
    )
    command = login_node(tmp_path, {**WORKING, "sinfo": sinfo})
    refused(command("site", "init"), 4, "Slurm did not answer", "scontrol ping")
    assert list(command.config.iterdir()) == []


def test_init_with_sinfo_alone(tmp_path: Path) -> None:
    command = login_node(tmp_path, {"sinfo": WORKING["sinfo"]})
    done = command("site", "init")
    assert done.code == 0, done.stderr
    site = read(command.config / "site.yaml")
    assert (site.name, site.partition) == ("this site", "gpu")
    assert site.partitions["gpu"].gpus == {"A100": 4}
    text = (command.config / "site.yaml").read_text(encoding="utf-8")
    assert "since scontrol show config did not answer: there is no scontrol command here" in text
    assert (
        "no answer    sacctmgr show associations: there is no sacctmgr command here" in done.stderr
    )
    assert "containers   no runtime on PATH" in done.stderr


def test_init_without_accounting_asks_for_no_accounts(tmp_path: Path) -> None:
    scontrol = SCONTROL.replace("accounting_storage/slurmdbd", "(null)")
    asked = tmp_path / "asked"
    sacctmgr = f'#!/bin/sh\necho "$*" >>{asked}\nexit 1\n'
    command = login_node(tmp_path, {**WORKING, "scontrol": scontrol, "sacctmgr": sacctmgr})
    done = command("site", "init", "--stdout")
    assert done.code == 0, done.stderr
    assert not asked.exists()
    assert "no accounts are kept here" in done.stdout
    assert "no answer" not in done.stderr


def test_init_when_the_accounts_are_out_of_reach(tmp_path: Path) -> None:
    sacctmgr = "#!/bin/sh\necho 'sacctmgr: error: Connection refused' >&2\nexit 1\n"
    command = login_node(tmp_path, {**WORKING, "sacctmgr": sacctmgr})
    done = command("site", "init", "--stdout")
    assert done.code == 0
    assert "sacctmgr show associations did not answer" in done.stdout
    assert validate(SiteSpec, done.stdout, "stdout").partitions["gpu"].account is None


def test_init_finds_images_caches_modules_and_hides_passwords(tmp_path: Path) -> None:
    hub = tmp_path / "hf" / "hub"
    hub.mkdir(parents=True)
    lmod = tmp_path / "lmod"
    lmod.write_text("#!/bin/sh\necho '/modules:\napptainer/1.2.0\napptainer/1.3.6(default)' >&2\n")
    lmod.chmod(0o755)
    programs = {name: text for name, text in WORKING.items() if name != "apptainer"}
    command = login_node(
        tmp_path,
        programs,
        HF_HOME=str(hub.parent),
        LMOD_CMD=str(lmod),
        https_proxy="http://me:pass%word@proxy.example.org:3128",
    )
    images = command.state / "containers"
    images.mkdir(parents=True)
    (images / "vllm-0.33.0.sif").write_text("")
    done = command("site", "init", "--stdout")
    site = validate(SiteSpec, done.stdout, "stdout")
    assert site.image_folder == str(images)
    assert site.hub_caches == (str(hub),)
    assert site.modules == ("apptainer/1.3.6",)
    for words in ("modules      Lmod: apptainer/1.2.0, apptainer/1.3.6",
                  f"images       {images}: vllm-0.33.0.sif",
                  f"hub cache    {hub} (from HF_HOME)"):  # fmt: skip
        assert words in done.stderr
    assert "# https_proxy is http://proxy.example.org:3128 on this machine" in done.stdout
    assert "pass%word" not in done.stdout + done.stderr


def test_options_in_the_environment_do_not_change_the_answers(tmp_path: Path) -> None:
    sinfo = WORKING["sinfo"].replace("cat", 'test -z "$SINFO_FORMAT" || exit 1\ncat')
    command = login_node(tmp_path, {**WORKING, "sinfo": sinfo}, SINFO_FORMAT="%N")
    assert command("site", "init", "--stdout").code == 0


# ---- show -------------------------------------------------------------------------------------


def layers(hpcvlm: Command, tmp_path: Path) -> None:
    (tmp_path / "etc.yaml").write_text("name: north\npartition: gpu\nqos: low\nbinds: [/data]\n")
    hpcvlm.site("# mine\npartition: mine\ngpu_types:\n  A100: {memory: 80G}\n")
    hpcvlm.environment |= {
        "HPCVLM_SITE": str(tmp_path / "etc.yaml"),
        "HPCVLM_SITE_ACCOUNT": "project",
    }


def test_show_tells_each_value_and_where_it_was_said(hpcvlm: Command, tmp_path: Path) -> None:
    layers(hpcvlm, tmp_path)
    done = hpcvlm("site", "show", "--set", "qos=high", "--json")
    assert done.code == 0, done.stderr
    rows = {row["key"]: (row["value"], row["source"], row["place"]) for row in done.json()}
    etc, mine = tmp_path / "etc.yaml", hpcvlm.config / "site.yaml"
    assert rows["name"] == ("north", "site", f"{etc}:1")
    assert rows["partition"] == ("mine", "user", f"{mine}:2")
    assert rows["account"] == ("project", "environment", "HPCVLM_SITE_ACCOUNT")
    assert rows["qos"] == ("high", "command line", "--set qos=high")
    assert rows["binds"] == (["/data"], "site", f"{etc}:4")
    assert rows["gpu_types.A100"][1:] == ("user", f"{mine}:4")
    assert rows["listen"] == ("node", "default", None)


def test_show_is_a_table_within_100_columns(hpcvlm: Command, tmp_path: Path) -> None:
    layers(hpcvlm, tmp_path)
    hpcvlm.environment |= {"HOME": str(tmp_path)}
    lines = hpcvlm("site", "show").stdout.splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "FROM"]
    assert max(map(len, lines)) <= 100
    assert (
        "partition                     mine                          user: ~/config/site.yaml:2"
        in lines
    )
    assert (
        "account                       project                       HPCVLM_SITE_ACCOUNT" in lines
    )
    assert any(line.startswith("cpus_per_gpu") and line.endswith("default") for line in lines)


def test_show_of_some_keys(hpcvlm: Command, tmp_path: Path) -> None:
    layers(hpcvlm, tmp_path)
    done = hpcvlm("site", "show", "gpu-types", "partition", "proxy.http", "--json")
    assert [row["key"] for row in done.json()] == ["gpu_types.A100", "partition", "proxy.http"]
    refused(hpcvlm("site", "show", "partiton"), 2, "did you mean 'partition'?")
    refused(hpcvlm("site", "show", "xyzzy"), 2, "the keys are schema, name,")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HPCVLM_SITE_PARTITON", "x", "did you mean 'HPCVLM_SITE_PARTITION'?"),
        ("HPCVLM_SITE_BINDS", "/x", "binds is a list or has keys"),
        ("HPCVLM_SITE_LISTEN", "no", "HPCVLM_SITE_LISTEN: listen: is"),
    ],
)
def test_a_mistake_in_the_environment_stops_every_command(
    hpcvlm: Command, name: str, value: str, words: str
) -> None:
    hpcvlm.environment[name] = value
    refused(hpcvlm("site", "show"), 2, words)
    refused(hpcvlm("render", "tiny-vlm", "--gpus", "A100:1"), 2, words)


def test_the_environment_reaches_a_job(hpcvlm: Command) -> None:
    hpcvlm.environment["HPCVLM_SITE_PARTITION"] = "gpu"
    done = hpcvlm("render", "tiny-vlm", "--gpus", "a100:1")
    assert "#SBATCH --partition=gpu" in done.stdout, done.stderr


def test_show_of_a_file_that_cannot_be_read(hpcvlm: Command) -> None:
    (hpcvlm.config / "site.yaml").mkdir()
    refused(hpcvlm("site", "show"), 2, "site.yaml cannot be read")


# ---- validate ---------------------------------------------------------------------------------


def test_validate_without_a_name_checks_what_is_in_use(hpcvlm: Command) -> None:
    hpcvlm.site("schema: 1\n")
    done = hpcvlm("site", "validate")
    assert (done.code, done.stdout.count(": ok\n")) == (0, 1)
    hpcvlm.site("schema: 1\nidle: soon\n")
    done = hpcvlm("site", "validate")
    assert done.code == 2
    assert ":2: idle: is 'soon'" in done.stderr


def test_validate(hpcvlm: Command, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("name: north\n")
    bad.write_text("name: north\npartiton: gpu\nlisten: all\n")
    assert hpcvlm("site", "validate", str(good)).stdout == f"{good}: ok\n"
    done = hpcvlm("site", "validate", str(bad))
    refused(done, 2, f"{bad}:2: partiton: unknown key; did you mean 'partition'?", f"{bad}:3:")
    refused(hpcvlm("site", "validate", "/no/such.yaml"), 2, "cannot read /no/such.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    refused(hpcvlm("site", "validate", str(binary)), 2, "cannot read")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "sites").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_site_file_is_valid(hpcvlm: Command, path: Path) -> None:
    assert hpcvlm("site", "validate", str(path)).stdout == f"{path}: ok\n"
