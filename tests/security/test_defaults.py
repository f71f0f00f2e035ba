"""What a plan allows an engine: nothing that nobody has asked for, in every version."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcvlm.engines.vllm_versions import known_versions
from hpcvlm.ops.prepare import _with_real_media_root
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlannedSnapshot
from tests.job_fixtures import COMMIT, make_plan, model

OTHER = "f" * 40
HAVE_DOMAINS = known_versions()[known_versions().index("0.11.0") :]


def plan_of(version: str, more: str = "", name: str = "tiny-vlm") -> LaunchPlan:
    site = f"schema: 1\nengines: [{{version: {version}, image: /images/x.sif}}]\n{more}"
    return make_plan(LaunchRequest(name, gpus="1"), site_text=site).plan


def value(plan: LaunchPlan, flag: str) -> list[str]:
    """What follows each time that a flag is given."""
    words = plan.engine_arguments
    return [words[n + 1] for n, word in enumerate(words) if word == flag]


@pytest.mark.parametrize("version", HAVE_DOMAINS)
def test_no_host_is_fetched_from_unless_the_site_names_it(version: str) -> None:
    plan = plan_of(version)
    # vLLM takes an empty list for any host, so the list holds one that no name service knows.
    assert value(plan, "--allowed-media-domains") == ["none.invalid"]
    assert ("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0") in plan.environment
    plan = plan_of(version, "media_domains: [images.example.org]\n")
    assert value(plan, "--allowed-media-domains") == ["images.example.org"]
    assert ("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0") in plan.environment


@pytest.mark.parametrize("version", [v for v in known_versions() if v not in HAVE_DOMAINS])
def test_a_version_that_cannot_be_closed_is_told(version: str) -> None:
    site = f"schema: 1\nengines: [{{version: {version}, image: /images/x.sif}}]\n"
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1"), site_text=site)
    assert any("make it fetch any http address" in note for note in result.notes)


@pytest.mark.parametrize("version", known_versions())
def test_every_version_is_locked_and_has_one_folder_of_files(version: str) -> None:
    plan = plan_of(version)
    assert value(plan, "--middleware") == ["hpcvlm_guard.KeyGuard"]
    assert value(plan, "--allowed-local-media-path") == [plan.media_root]
    assert plan.media_root_is_private
    variables = dict(plan.environment)
    assert variables["HPCVLM_KEY_FILE"] == f"{plan.folder}/key"
    assert variables["PYTHONPATH"] == f"{plan.folder}/payloads"
    assert "VLLM_API_KEY" not in variables
    assert "VLLM_SERVER_DEV_MODE" not in variables
    assert not {"--api-key", "--trust-remote-code", "--enable-log-requests"} & set(
        plan.engine_arguments
    )
    writable = [bind.target for bind in plan.binds if not bind.read_only]
    assert writable == [plan.cache]
    seen = {bind.source for bind in plan.binds}
    assert plan.folder not in seen


def test_a_folder_of_pictures_is_resolved_before_anything_looks_at_it(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    request = LaunchRequest("tiny-vlm", media_root=f"{tmp_path}/link/../link/.")
    assert _with_real_media_root(request).media_root == str(real)


def test_a_link_out_of_the_allowed_folders_is_refused(tmp_path: Path) -> None:
    allowed, secret = tmp_path / "allowed", tmp_path / "secret"
    allowed.mkdir()
    secret.mkdir()
    (allowed / "link").symlink_to(secret)
    for folder, refused in ((allowed, False), (allowed / "link", True), (allowed / "..", True)):
        request = _with_real_media_root(LaunchRequest("tiny-vlm", gpus="1", media_root=str(folder)))
        site = (
            f"schema: 1\nengines: [{{version: 0.32.0, command: [x]}}]\nmedia_roots: [{allowed}]\n"
        )
        codes = {issue.code for issue in make_plan(request, site_text=site).issues}
        assert ("media-root-refused" in codes) == refused, folder


@pytest.mark.parametrize(
    ("reviewed", "commit", "refused"),
    [
        ("", COMMIT, True),
        (OTHER, COMMIT, True),
        (COMMIT, COMMIT, False),
        (COMMIT, "main", True),
    ],
)
def test_code_of_a_repository_runs_at_one_reviewed_commit(
    reviewed: str, commit: str, refused: bool
) -> None:
    settings = ["custom_code='its own classes'", "options.trust-remote-code=true"]
    if reviewed:
        settings.append(f"reviewed_code={reviewed}")
    snapshot = PlannedSnapshot("org/model", commit, f"/hub/m/snapshots/{commit}", "/hub/m")
    result = make_plan(
        LaunchRequest("tiny-vlm", gpus="1"), spec=model("tiny-vlm", *settings), snapshot=snapshot
    )
    assert ("remote-code" in {issue.code for issue in result.issues}) == refused


@pytest.mark.parametrize("flag", ["--trust-remote-code", "--trust_remote_code", "--trust-remote"])
def test_the_flag_itself_is_no_way_around_the_review(flag: str) -> None:
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1", engine_arguments=(flag,)))
    assert "remote-code" in {issue.code for issue in result.issues}
