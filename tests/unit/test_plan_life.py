"""What a plan says of a job's life: where it listens, how long it stays, what it may fetch."""

from __future__ import annotations

import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.launch import without_forced
from hpcvlm.plan.explain import gpu_hours, plan_lines
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlannedNotify, PlannedSnapshot
from hpcvlm.site.cluster import parse_sinfo
from tests.job_fixtures import COMMIT, make_plan, model
from tests.plan_fixtures import LLAMA, TINY, argument, only_issue, option

CLUSTER = parse_sinfo(0, "gpu*|up|1-00:00:00|2|8|16000|gpu:A100:4\n", "")
DAY = 86400


def asked(**said: object) -> LaunchRequest:
    return LaunchRequest(TINY, gpus="A100:1", **said)  # type: ignore[arg-type]


def engine(version: str, more: str = "") -> str:
    return f"schema: 1\nruntime: none\nengines: [{{version: {version}, command: [vllm]}}]\n{more}"


def shown(plan: LaunchPlan) -> dict[str, tuple[str, str]]:
    return {line.name: (line.value, line.source) for line in plan_lines(plan)}


@pytest.mark.parametrize(
    ("executor", "flag", "site", "listen", "host", "source"),
    [
        ("slurm", None, "", "node", "0.0.0.0", "default"),  # noqa: S104
        ("slurm", "socket", "", "socket", "127.0.0.1", "command line"),
        ("slurm", None, "listen: loopback\n", "loopback", "127.0.0.1", "default"),
        ("slurm", "node", "listen: loopback\n", "node", "0.0.0.0", "command line"),  # noqa: S104
        ("local", None, "", "loopback", "127.0.0.1", "this machine"),
        ("local", "node", "", "loopback", "127.0.0.1", "this machine"),
        ("local", "socket", "", "socket", "127.0.0.1", "command line"),
    ],
)
def test_where_it_listens(
    executor: str, flag: str | None, site: str, listen: str, host: str, source: str
) -> None:
    site = engine("0.32.0", site)
    result = make_plan(asked(listen=flag), site_text=site, executor=executor)
    assert result.issues == ()
    assert (result.plan.listen, result.plan.listen_host) == (listen, host)
    assert result.plan.sources["listen"] == source
    assert {"node": "every host", "loopback": "its own node", "socket": "you alone"}[
        listen
    ] in shown(result.plan)["listens on"][0]


def test_a_socket_needs_an_engine_that_has_them() -> None:
    issue = only_issue(make_plan(asked(listen="socket"), site_text=engine("0.10.0")))
    assert (issue.code, issue.field) == ("listen-unsupported", "--listen")
    assert "0.10.1" in issue.sentence
    assert make_plan(asked(listen="socket"), site_text=engine("0.10.2")).issues == ()


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ({"listen": "everywhere"}, "option-invalid", "--listen 'everywhere'"),
        ({"restarts": -1}, "option-invalid", "--restarts -1"),
        ({"keep": "for ever"}, "time-invalid", "--keep 'for ever'"),
        ({"idle": "a bit"}, "time-invalid", "--idle 'a bit'"),
    ],
)
def test_what_cannot_be_read(said: dict[str, object], code: str, words: str) -> None:
    from hpcvlm.plan.build import check_request

    with pytest.raises(HpcvlmError) as caught:
        check_request(asked(**said), model(TINY))
    assert caught.value.code == code
    assert words in caught.value.sentence


def test_idle_and_restarts_of_the_site_give_way_to_the_command_line() -> None:
    site = engine("0.32.0", "idle: 2h\nrestarts: 3\n")
    plan = make_plan(asked(), site_text=site).plan
    assert (plan.idle_s, plan.restarts) == (7200, 3)
    plan = make_plan(asked(idle="30m", restarts=0), site_text=site).plan
    assert (plan.idle_s, plan.restarts) == (1800, 0)
    assert plan.sources["idle"] == plan.sources["restarts"] == "command line"
    assert make_plan(asked(idle="never"), site_text=site).plan.idle_s is None
    assert make_plan(asked()).plan.idle_s is None


def test_the_job_and_slurm_agree_on_requeueing() -> None:
    assert option(make_plan(asked()).plan, "no-requeue") == ""
    plan = make_plan(asked(restarts=1)).plan
    assert option(plan, "requeue") == ""
    assert option(plan, "no-requeue") is None
    site = engine("0.32.0", "sbatch: {requeue: '', nice: '5'}\n")
    plan = make_plan(asked(), site_text=site).plan
    assert option(plan, "requeue") is None
    assert option(plan, "nice") == "5"


def test_keeping_it_takes_jobs_of_the_time_that_was_asked_for() -> None:
    result = make_plan(asked(keep="3d", time="24h"), cluster=CLUSTER)
    plan = result.plan
    assert result.issues == ()
    assert (plan.keep_s, plan.time_limit_s, plan.endpoint, plan.generation) == (
        *(3 * DAY, DAY, "mine", 1),
    )
    assert option(plan, "time") == "1-00:00:00"
    assert shown(plan)["kept"] == (
        "3-00:00:00 = 4 jobs of 1-00:00:00, each overlapping 00:20:00",
        "command line",
    )
    assert gpu_hours(plan) == 4 * 24
    assert "kept" not in shown(make_plan(asked()).plan)


def test_without_a_time_the_jobs_share_it_evenly() -> None:
    plan = make_plan(asked(keep="3d"), cluster=CLUSTER).plan
    assert plan.time_limit_s < DAY
    assert 4 * plan.time_limit_s - 3 * plan.overlap_s >= 3 * DAY
    assert plan.sources["time"] == "from --keep"
    # Where nothing limits a job's time, one job is enough.
    plan = make_plan(asked(keep="3d")).plan
    assert (plan.time_limit_s, gpu_hours(plan)) == (3 * DAY, 72)


def test_the_site_s_overlap() -> None:
    site = engine("0.32.0", "keep: {overlap: 1h}\n")
    plan = make_plan(asked(keep="3d", time="24h"), cluster=CLUSTER, site_text=site).plan
    assert plan.overlap_s == 3600


def test_keeping_is_refused_where_it_means_nothing_or_too_much() -> None:
    issue = only_issue(make_plan(asked(keep="3d"), executor="local"))
    assert (issue.code, issue.remedy) == ("keep-unsupported", "--time 3d")
    issue = only_issue(make_plan(asked(keep="300d", time="24h"), cluster=CLUSTER))
    assert issue.code == "keep-jobs"
    assert "takes at most 50 from one launch" in issue.sentence


def test_who_is_told() -> None:
    assert make_plan(asked()).plan.notify is None
    mail_only = engine("0.32.0", "notify: {mail_type: [END]}\n")
    assert make_plan(asked(), site_text=mail_only).plan.notify is None
    site = engine("0.32.0", "notify: {command: [tell, me], mail_to: me@here}\n")
    plan = make_plan(asked(), site_text=site).plan
    assert plan.notify == PlannedNotify(("expiring", "failed"), ("tell", "me"), None, "me@here")
    assert shown(plan)["tells"][0] == "command, mail on expiring, failed"


def test_engines_fetch_from_nobody_unless_somebody_says_so() -> None:
    plan = make_plan(asked()).plan
    assert argument(plan, "--allowed-media-domains") == "none.invalid"
    assert dict(plan.environment)["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    site = engine("0.32.0", "media_domains: [a.org, b.org]\n")
    plan = make_plan(asked(), site_text=site).plan
    place = plan.engine_arguments.index("--allowed-media-domains")
    assert plan.engine_arguments[place + 1 : place + 3] == ("a.org", "b.org")
    own = model(TINY, "options.allowed-media-domains=[c.org]")
    assert argument(make_plan(asked(), spec=own).plan, "--allowed-media-domains") == "c.org"
    plan = make_plan(asked(), site_text=engine("0.32.0", "media_domains: ['*']\n")).plan
    assert "--allowed-media-domains" not in plan.engine_arguments
    assert "VLLM_MEDIA_URL_ALLOW_REDIRECTS" not in dict(plan.environment)


def test_a_version_that_cannot_be_closed_is_named() -> None:
    result = make_plan(asked(), site_text=engine("0.10.2"))
    assert result.issues == ()
    assert "--allowed-media-domains" not in result.plan.engine_arguments
    (note,) = result.notes
    assert "vLLM 0.10.2 cannot be told which hosts images may come from (0.11.0 can)" in note


def test_a_text_model_has_no_such_option() -> None:
    spec = model(TINY, "multimodal.limit_per_prompt=null")
    assert "--allowed-media-domains" not in make_plan(asked(), spec=spec).plan.engine_arguments


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        (("custom_code=its own classes",), ()),
        (("options.trust-remote-code=true",), ()),
        ((), ("--trust-remote-code",)),
        ((), ("--trust_remote_code",)),
        ((), ("--trust-rem",)),
    ],
)
def test_code_of_a_repository_needs_somebody_who_has_read_it(
    settings: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    request = asked(engine_arguments=arguments)
    (issue,) = make_plan(request, spec=model(TINY, *settings)).issues
    assert issue.code == "remote-code"
    assert issue.arguable
    assert COMMIT in issue.sentence
    assert without_forced((issue,), ("remote-code",)) == ()
    read = model(TINY, *settings, f"reviewed_code={COMMIT}")
    assert make_plan(request, spec=read).issues == ()
    other = model(TINY, *settings, f"reviewed_code={'f' * 40}")
    (issue,) = make_plan(request, spec=other).issues
    assert f"the commit that was reviewed is {'f' * 40}" in issue.sentence


def test_code_of_an_unknown_commit_is_never_run() -> None:
    snapshot = PlannedSnapshot("org/model", "main", "/models/own", "/models/own")
    spec = model(TINY, "custom_code=its own classes")
    (issue,) = make_plan(asked(), spec=spec, snapshot=snapshot).issues
    assert issue.code == "remote-code"
    with pytest.raises(HpcvlmError, match="cannot be forced"):
        without_forced((issue,), ("remote-code",))


def test_flags_that_only_look_alike_are_left_alone() -> None:
    for argument_ in ("--trust-request-mm-kwargs", "--trust-remote-code=false"):
        result = make_plan(asked(engine_arguments=(argument_,)))
        assert [issue for issue in result.issues if issue.code == "remote-code"] == []


def test_the_shipped_model_without_code_needs_nobody() -> None:
    issues = make_plan(LaunchRequest(LLAMA, gpus="A100:4"), site_text=engine("0.10.2")).issues
    assert [issue.code for issue in issues if issue.code == "remote-code"] == []


def test_a_short_overlap_is_told() -> None:
    short = make_plan(asked(keep="20m", time="4m"), site_text=engine("0.32.0"))
    assert any("expect gaps" in note for note in short.notes)
    long = make_plan(asked(keep="3d", time="24h"), site_text=engine("0.32.0"))
    assert not any("expect gaps" in note for note in long.notes)
