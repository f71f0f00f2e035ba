"""What a plan allows an engine: nothing that nobody has asked for, in every version."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcvlm.engines.vllm_versions import known_versions
from hpcvlm.ops.prepare import _with_real_media_root, _with_real_media_roots
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlannedSnapshot
from tests.job_fixtures import COMMIT, make_plan, model, site

OTHER = "f" * 40
HAVE_DOMAINS = known_versions()[known_versions().index("0.11.0") :]


def plan_of(version: str, more: str = "", name: str = "tiny-vlm") -> LaunchPlan:
    text = f"schema: 1\nengines: [{{version: {version}, image: /images/x.sif}}]\n{more}"
    return make_plan(LaunchRequest(name, gpus="1"), site_text=text).plan


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
    text = f"schema: 1\nengines: [{{version: {version}, image: /images/x.sif}}]\n"
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1"), site_text=text)
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
        text = (
            f"schema: 1\nengines: [{{version: 0.32.0, command: [x]}}]\nmedia_roots: [{allowed}]\n"
        )
        codes = {issue.code for issue in make_plan(request, site_text=text).issues}
        assert ("media-root-refused" in codes) == refused, folder


def test_a_site_may_name_the_allowed_folders_by_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    named = site(f"schema: 1\nmedia_roots: [{tmp_path}/link]\n")
    assert _with_real_media_roots(named).media_roots == (str(real),)


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("--grpc",),
        ("--grpc-port", "50051"),
        ("--grpc-port=50051",),
        ("--middleware", "mine.Door"),
        ("--middleware=mine.Door",),
        ("--middle", "mine.Door"),
        ("--config", "more.yaml"),
    ],
)
def test_no_argument_opens_a_way_past_the_key(arguments: tuple[str, ...]) -> None:
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1", engine_arguments=arguments))
    issue = next(one for one in result.issues if one.code == "unguarded")
    assert issue.field == arguments[0].partition("=")[0]
    assert not issue.arguable


@pytest.mark.parametrize(
    "setting",
    [
        "options.grpc=true",
        "options.middleware=[mine.Door]",
        "options.config=/more.yaml",
        "environment.VLLM_USE_RUST_FRONTEND='1'",
        "environment.HPCVLM_KEY_FILE=/home/mine",
    ],
)
def test_no_setting_opens_a_way_past_the_key(setting: str) -> None:
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1"), spec=model("tiny-vlm", setting))
    issue = next(one for one in result.issues if one.code == "unguarded")
    assert issue.field == setting.partition("=")[0]


@pytest.mark.parametrize("arguments", [("--config-format", "hf"), ("--seed", "1"), ()])
def test_what_opens_nothing_is_taken(arguments: tuple[str, ...]) -> None:
    spec = model("tiny-vlm", "environment.VLLM_USE_RUST_FRONTEND='0'", "options.grpc=false")
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1", engine_arguments=arguments), spec=spec)
    assert "unguarded" not in {issue.code for issue in result.issues}


@pytest.mark.parametrize(
    "argument",
    ["--allowed-local-media-path=/", "--allowed-local=/", "--uds=/x", "--port", "--host"],
)
def test_no_argument_moves_the_folder_of_pictures_or_the_address(argument: str) -> None:
    result = make_plan(LaunchRequest("tiny-vlm", gpus="1", engine_arguments=(argument,)))
    refused = [one for one in result.issues if one.code == "engine-flag"]
    assert [one.field for one in refused] == [argument.partition("=")[0]]


def test_no_setting_moves_the_folder_of_pictures() -> None:
    for folder, refused in (("/", True), (plan_of("0.32.0").media_root, False)):
        spec = model("tiny-vlm", f"options.allowed-local-media-path={folder}")
        issues = make_plan(LaunchRequest("tiny-vlm", gpus="1"), spec=spec).issues
        assert ("engine-flag" in {one.code for one in issues}) == refused


def test_a_python_path_of_the_site_does_not_hide_the_guard() -> None:
    plan = plan_of("0.32.0", "environment: {PYTHONPATH: /opt/tools}\n")
    assert dict(plan.environment)["PYTHONPATH"] == f"{plan.folder}/payloads:/opt/tools"
