from __future__ import annotations

import stat
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment

from hpcvlm.ops.template_cache import TemplateCache


def render(text: str, cache: TemplateCache) -> str:
    loader = DictLoader({"t": text})
    environment = Environment(loader=loader, bytecode_cache=cache, autoescape=True)
    return environment.get_template("t").render(x=1)


def test_it_is_kept_and_private(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "templates"
    assert render("a {{ x }}", TemplateCache(folder)) == "a 1"
    (kept,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    before = kept.stat().st_mtime_ns
    assert render("a {{ x }}", TemplateCache(folder)) == "a 1"
    assert kept.stat().st_mtime_ns == before


def test_a_changed_template_is_compiled_again(tmp_path: Path) -> None:
    assert render("a {{ x }}", TemplateCache(tmp_path)) == "a 1"
    assert render("b {{ x }}", TemplateCache(tmp_path)) == "b 1"


@pytest.mark.parametrize("rubbish", [b"", b"x", b"j2", bytes(4096)])
def test_a_damaged_file_does_no_harm(tmp_path: Path, rubbish: bytes) -> None:
    render("a {{ x }}", TemplateCache(tmp_path))
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (rubbish, whole[: len(whole) // 2], whole[:-1]):
        kept.write_bytes(damaged)
        assert render("a {{ x }}", TemplateCache(tmp_path)) == "a 1"
        assert kept.read_bytes() == whole


def test_no_place_does_no_harm(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert render("a {{ x }}", TemplateCache(blocked / "templates")) == "a 1"
