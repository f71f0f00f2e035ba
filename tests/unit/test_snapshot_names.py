"""Which snapshot a word means, where models of one's own name the same repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from tests.command import ROOT

REPO = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"
OF_CATALOG = "smolvlm2-256m"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPCVLM_CONFIG", str(tmp_path))
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def copy(models: Path, name: str, revision: str = "main") -> None:
    """A model file of one's own, begun as a copy of the catalog's."""
    text = (ROOT / "configs" / "models" / f"{OF_CATALOG}.yaml").read_text()
    text = text.replace(f"name: {OF_CATALOG}", f"name: {name}")
    aliases, rest = text.index("aliases:"), text.index("description:")
    text = text[:aliases] + text[rest:]
    (models / f"{name}.yaml").write_text(text.replace("revision: main", f"revision: {revision}"))


def test_a_repository_of_one_model_is_that_model(models: Path) -> None:
    assert wanted_snapshot(REPO, None, Context()) == Wanted(REPO, "main", OF_CATALOG)


def test_a_repository_of_several_models_is_itself(models: Path) -> None:
    copy(models, "mine")
    assert wanted_snapshot(REPO, None, Context()) == Wanted(REPO, "main")
    assert wanted_snapshot(REPO, "v2", Context()) == Wanted(REPO, "v2")
    assert wanted_snapshot("mine", None, Context()) == Wanted(REPO, "main", "mine")


def test_models_that_differ_in_their_revision_leave_main(models: Path) -> None:
    copy(models, "mine", "v2")
    assert wanted_snapshot(REPO, None, Context()).revision == "main"


def test_a_repository_of_no_model(models: Path) -> None:
    assert wanted_snapshot("org/other", None, Context()) == Wanted("org/other", "main")


@pytest.mark.parametrize("text", ["nothing", "org/other:awq", "a/b/c", "org/", ""])
def test_what_is_neither(models: Path, text: str) -> None:
    with pytest.raises(HpcvlmError) as raised:
        wanted_snapshot(text, None, Context())
    assert raised.value.code == "model-unknown"
