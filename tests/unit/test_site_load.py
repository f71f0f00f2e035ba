"""Layers of site files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.site.load import load_site
from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile.schema import keys_of

EXAMPLE = Path(__file__).parents[2] / "configs" / "sites" / "example.yaml"

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
    assert sources.keys() == keys_of(SiteSpec).keys()


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
        "u.yaml:2: listen: is 'everywhere' (expected one of 'node', 'loopback')"
    )


def test_a_setting_that_is_no_key() -> None:
    with pytest.raises(HpcvlmError) as caught:
        load_site([], ["partiton=gpu"])
    assert caught.value.code == "setting-invalid"
    assert caught.value.sentence == (
        "--set partiton=gpu: unknown key 'partiton'; did you mean 'partition'?"
    )


def test_the_example_has_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    _, sources = load_site([("example", str(EXAMPLE), text)])
    assert "default" not in sources.values()
    site, _ = load_site([("example", str(EXAMPLE), text)])
    used = {key for install in site.engines for key in ("image", "binds", "environment", "command")
            if getattr(install, key)}  # fmt: skip
    assert used == {"image", "binds", "environment", "command"}
