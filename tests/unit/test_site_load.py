"""Layers of site files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.site.load import load_site, resolve_site, scalar_variables
from hpcvlm.site.schema import GpuType, PartitionSpec, SiteSpec
from hpcvlm.yamlfile.schema import keys_of
from tests.job_fixtures import make_plan

SITES = Path(__file__).parents[2] / "configs" / "sites"
EXAMPLE = SITES / "example.yaml"
PUBLIC = sorted(path for path in SITES.glob("*.yaml") if path != EXAMPLE)

SITE = """\
name: north
partition: gpu
account: project
environment: {A: '1', B: '1'}
binds: [/data]
engines:
  - {version: 0.10.2, image: /images/vllm-0.10.2.sif}
"""
USER = """\
account: mine
partition: ~
environment: {B: '2'}
binds: [/scratch]
"""


def test_no_file_at_all() -> None:
    site, sources = load_site([])
    assert site == SiteSpec()
    assert set(sources.values()) == {"default"}
    # A section has an entry for each of its keys.
    assert list(dict.fromkeys(key.partition(".")[0] for key in sources)) == list(keys_of(SiteSpec))
    assert "proxy.no_proxy" in sources


def test_the_users_file_over_the_sites() -> None:
    site, sources = load_site([("site", "/etc/site.yaml", SITE), ("user", "~/site.yaml", USER)])
    assert (site.name, site.account, site.partition) == ("north", "mine", None)
    assert site.environment == {"A": "1", "B": "2"}
    assert site.binds == ("/scratch",)
    assert site.engines[0].version == "0.10.2"
    assert {key: source for key, source in sources.items() if source != "default"} == {
        "name": "site",
        "partition": "user",
        "account": "user",
        "environment.A": "site",
        "environment.B": "user",
        "binds": "user",
        "engines": "site",
    }


def test_the_command_line_over_both() -> None:
    texts = [("site", "/etc/site.yaml", SITE), ("user", "~/site.yaml", USER)]
    site, sources = load_site(texts, ["account=theirs", "cpus_per_gpu=4", "environment.B=3"])
    assert (site.account, site.cpus_per_gpu, site.environment["B"]) == ("theirs", 4, "3")
    assert sources["account"] == sources["cpus_per_gpu"] == "command line"


def test_a_mistake_names_its_file() -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([("site", "/etc/site.yaml", SITE), ("user", "u.yaml", "\nlisten: everywhere\n")])
    assert caught.value.code == "file-invalid"
    assert caught.value.sentence == (
        "u.yaml:2: listen: is 'everywhere' (expected one of 'node', 'loopback', 'socket')"
    )


def test_a_setting_that_is_no_key() -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([], ["partiton=gpu"])
    assert caught.value.code == "setting-invalid"
    assert caught.value.sentence == (
        "--set partiton=gpu: unknown key 'partiton'; did you mean 'partition'?"
    )


def test_the_environment_over_the_files_and_below_the_command_line() -> None:
    texts = [("site", "/etc/site.yaml", SITE), ("user", "~/site.yaml", USER)]
    environment = {
        "HPCVLM_SITE": "/etc/site.yaml",
        "HPCVLM_SITE_ACCOUNT": "2026",
        "HPCVLM_SITE_CPUS_PER_GPU": "8",
        "HPCVLM_SITE_QOS": "high",
        "HPCVLM_SITE_LISTEN": " ",
        "HPCVLM_STATE": "/state",
    }
    resolved = resolve_site(texts, ["qos=low"], environment)
    spec, places = resolved.spec, resolved.places()
    assert (spec.account, spec.cpus_per_gpu, spec.qos, spec.listen) == ("2026", 8, "low", "node")
    assert (resolved.sources["account"], places["account"]) == (
        "environment",
        "HPCVLM_SITE_ACCOUNT",
    )
    assert (resolved.sources["qos"], places["qos"]) == ("command line", "--set qos=low")
    assert places["environment.B"] == "~/site.yaml:3"
    assert places["engines"] == "/etc/site.yaml:6"
    assert "listen" not in places
    assert resolved.sources["listen"] == "default"


def test_null_in_the_environment_takes_a_key_away() -> None:
    texts = [("site", "/etc/site.yaml", SITE)]
    site, sources = load_site(texts, environment={"HPCVLM_SITE_PARTITION": "null"})
    assert site.partition is None
    assert sources["partition"] == "environment"


def test_every_key_with_one_value_has_a_variable() -> None:
    values = {"executor": "local", "gpu_request": "gres", "runtime": "docker", "gpu_flag": "--rocm",
              "listen": "loopback", "cpus_per_gpu": "3", "memory_per_gpu": "7G",
              "scratch_root": "$TMPDIR", "idle": "30m", "restarts": "2"}  # fmt: skip
    variables = scalar_variables()
    for name, (key, _) in variables.items():
        value = values.get(key, "1.10")
        site, sources = load_site([], environment={name: value})
        assert str(getattr(site, key)) == value, name
        assert sources[key] == "environment"
    others = {"schema", "required", "gpu_types", "partitions", "sbatch", "modules", "engines",
              "hub_caches", "media_roots", "binds", "proxy", "notify", "environment", "store",
              "staging", "images", "keep", "media_domains"}  # fmt: skip
    assert {key for key, _ in variables.values()} == keys_of(SiteSpec).keys() - others


@pytest.mark.parametrize(
    ("name", "value", "code", "sentence"),
    [
        (
            "HPCVLM_SITE_PARTITON",
            "gpu",
            "setting-invalid",
            "the environment variable HPCVLM_SITE_PARTITON is no key of a site; "
            "did you mean 'HPCVLM_SITE_PARTITION'?",
        ),
        (
            "HPCVLM_SITE_BINDS",
            "/data",
            "setting-invalid",
            "the environment variable HPCVLM_SITE_BINDS cannot be used: binds is a list or "
            "has keys",
        ),
        (
            "HPCVLM_SITE_LISTEN",
            "everywhere",
            "file-invalid",
            "HPCVLM_SITE_LISTEN: listen: is 'everywhere' "
            "(expected one of 'node', 'loopback', 'socket')",
        ),
        (
            "HPCVLM_SITE_CPUS_PER_GPU",
            "0",
            "file-invalid",
            "HPCVLM_SITE_CPUS_PER_GPU: cpus_per_gpu: is 0 (expected a whole number, 1 or more)",
        ),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(
    name: str, value: str, code: str, sentence: str
) -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([("site", "/etc/site.yaml", SITE)], environment={name: value})
    assert (caught.value.code, caught.value.sentence) == (code, sentence)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("media_roots: [pictures]", "is 'pictures' (expected a folder from the root or from home"),
        ("notify: {mail_type: [ENDE]}", "is 'ENDE' (expected one of 'NONE', 'BEGIN', 'END'"),
        ("notify: {mail_type: [end]}", "is 'end' (expected one of 'NONE', 'BEGIN', 'END'"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_here(line: str, words: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([("site", "/etc/site.yaml", f"schema: 1\n{line}\n")])
    assert caught.value.sentence.startswith("/etc/site.yaml:2: ")
    assert words in caught.value.sentence


def test_folders_from_the_root_and_from_home_are_taken() -> None:
    text = "schema: 1\nmedia_roots: [/data, ~/pictures, '~']\n"
    site, _ = load_site([("site", "/etc/site.yaml", text)])
    assert site.media_roots == ("/data", "~/pictures", "~")


def test_a_variable_that_resembles_nothing_lists_them_all() -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([], environment={"HPCVLM_SITE_XYZZY": "1"})
    assert "the variables are HPCVLM_SITE_NAME, HPCVLM_SITE_EXECUTOR," in caught.value.sentence
    assert caught.value.remedy == "unset HPCVLM_SITE_XYZZY"


def test_the_example_has_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    _, sources = load_site([("example", str(EXAMPLE), text)])
    assert "default" not in sources.values()
    site, _ = load_site([("example", str(EXAMPLE), text)])
    used = {key for install in site.engines for key in ("image", "binds", "environment", "command")
            if getattr(install, key)}  # fmt: skip
    assert used == {"image", "binds", "environment", "command"}
    for kind, sections in ((GpuType, site.gpu_types), (PartitionSpec, site.partitions)):
        said = {key for part in sections.values() for key in keys_of(kind) if getattr(part, key)}
        assert said == keys_of(kind).keys()


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_a_public_site_says_where_it_is_from_and_asks_for_each_of_its_gpus(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "# Untested; from public documentation read 2026-11" in text
    assert re.search(r"#   http", text)
    assert max(map(len, text.splitlines())) <= 100
    site, sources = load_site([("site", str(path), text)])
    assert sources["name"] == "site"
    for name, kind in site.gpu_types.items():
        for typed in (name, *kind.aliases):
            asked = LaunchRequest("tiny-vlm", gpus=f"{typed}:1", account="me")
            plan = make_plan(asked, site_text=text, executor="slurm").plan
            options = {option.name: option.value for option in plan.sbatch}
            slurm_name = kind.slurm_name or name
            if site.gpu_request == "constraint":
                assert (options["gpus-per-node"], options["constraint"]) == ("1", kind.constraint)
            elif site.gpu_request == "gres":
                assert options["gres"] == f"gpu:{slurm_name}:1"
            else:
                assert options["gpus-per-node"] == f"{slurm_name}:1"
    if "account" in site.required:
        result = make_plan(LaunchRequest("tiny-vlm", gpus="1"), site_text=text, executor="slurm")
        assert "option-required" in {issue.code for issue in result.issues}


def test_there_are_files_for_several_public_sites() -> None:
    assert len(PUBLIC) >= 5
