"""Names that become files and folders lead nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.catalog.load import Layer, TextFolder, find_model
from hpcvlm.endpoints.registry import find_record
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.prepare import prepare
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.site.schema import SiteSpec
from hpcvlm.snapshots.hub import repository_folder_name
from hpcvlm.snapshots.pull.pull import plan_pull
from tests.job_fixtures import make_plan

parts = st.sampled_from(
    ("..", ".", "/", "a", "main", "refs", "-", "_", "\\", "~", "%2e", "\0", "x")
)
paths = st.lists(parts, max_size=6).map("".join) | st.text(max_size=20)


def inside(folder: Path, path: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve()) and path.resolve() != folder.resolve()


def revision_of(text: str) -> str:
    """The revision of a model file, as it is taken."""
    quoted = "'" + text.replace("'", "''") + "'"
    file = f"snapshot: {{repo: org/x, revision: {quoted}}}\n"
    return find_model(
        "mine", [Layer("user", TextFolder({"mine.yaml": file}))]
    ).spec.snapshot.revision


@given(paths)
@settings(deadline=None, max_examples=300)
def test_a_revision_stays_below_its_repository(text: str) -> None:
    try:
        revision = revision_of(text)
    except HpcvlmError as error:
        assert error.code == "file-invalid"
        return
    for kind in ("refs", "snapshots"):
        folder = Path("/hub/models--org--x") / kind
        assert inside(folder, folder / revision)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..", "", "a//b", "a\nb", "a\0b"])
def test_what_a_hub_answers_stays_below_its_repository(name: str, tmp_path: Path) -> None:
    class Source:
        repo = "org/x"
        commit = name

    class Branch:
        repo = "org/x"
        commit = "c" * 40

    for source, revision in ((Source(), "main"), (Branch(), name)):
        with pytest.raises(HpcvlmError) as error:
            plan_pull([], [], source, revision, tmp_path)  # type: ignore[arg-type]
        assert error.value.code == "hub-listing"
    assert list(tmp_path.iterdir()) == []


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+", fullmatch=True))
@settings(deadline=None)
def test_a_repository_is_one_folder(repo: str) -> None:
    assert inside(Path("/hub"), Path("/hub") / repository_folder_name(repo))
    assert "/" not in repository_folder_name(repo)


NAMES = (
    "../x",
    "..",
    ".",
    "a/b",
    "/etc",
    "a\nb",
    "",
    " a",
    "-a",
    "~",
    "a~2",
    "A",
    "$(x)",
    "é",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_endpoint_s_name_is_one_plain_word(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCVLM_STATE", str(tmp_path / "state"))
    with pytest.raises(HpcvlmError) as error:
        prepare(LaunchRequest("tiny-vlm", name=name, executor="local"), Context())
    assert error.value.code == "name-invalid"
    assert error.value.sentence.isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wanted", ["../other", "..", ".", "/etc", "", "other/..", "a\0b"])
def test_a_name_that_is_looked_for_leads_to_no_other_folder(wanted: str, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text("{}")
    with pytest.raises(HpcvlmError) as error:
        find_record(jobs, wanted)
    assert error.value.code == "endpoint-unknown"


@pytest.mark.parametrize("key", ["environment", "sbatch"])
def test_names_of_variables_and_options_are_words(key: str) -> None:
    from hpcvlm.yamlfile import validate

    for name in ("a b", "a=b", "a;b", "$(x)", "a'b", 'a"b', "a`b", "-a", "é", "a.b", "a/b"):
        quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        with pytest.raises(HpcvlmError, match="is no key here"):
            validate(SiteSpec, f"{key}: {{{quoted}: x}}\n", "site.yaml")


@pytest.mark.parametrize("root", ["/x", "$TMPDIR/x", "/scratch/$USER"])
def test_folders_that_the_node_expands_hold_names_of_variables_only(root: str) -> None:
    from hpcvlm.yamlfile import validate

    assert validate(SiteSpec, f"scratch_root: {root}\n", "site.yaml").scratch_root == root
    for bad in (
        "$(x)",
        "`x`",
        "${x}",
        "$1",
        "a b",
        ";",
        "&",
        '"',
        "'",
        "\\",
        "*",
        "$",
        "\n",
        "é",
        "!",
    ):
        for text in (f"{root}{bad}", f"{root}/{bad}/y"):
            quoted = '"' + re.sub(r'(["\\])', r"\\\1", text).replace("\n", "\\n") + '"'
            for key in ("scratch_root: ", "staging: {folder: ", "images: {temporary: "):
                end = "}" if "{" in key else ""
                with pytest.raises(HpcvlmError, match=r"site\.yaml:1"):
                    validate(SiteSpec, f"{key}{quoted}{end}\n", "site.yaml")


def test_paths_that_cannot_be_mounted_are_refused_and_not_split() -> None:
    """Apptainer splits a --bind at colons and commas: a folder's name could mount another one."""
    site = "schema: 1\nengines: [{version: 0.32.0, image: /images/x.sif}]\n"
    for folder in ("/media:/etc", "/media,/etc", "/a:/b:rw"):
        result = make_plan(LaunchRequest("tiny-vlm", gpus="1", media_root=folder), site_text=site)
        assert "path-unsafe" in {issue.code for issue in result.issues}


def test_a_folder_whose_name_others_would_read_otherwise_is_refused() -> None:
    for folder, refused in (("/a\\b/x", True), ("/a:b/x", True), ("/a b'c\"%j/x", False)):
        result = make_plan(LaunchRequest("tiny-vlm", gpus="1"), folder=folder)
        assert ("path-unsafe" in {issue.code for issue in result.issues}) == refused
