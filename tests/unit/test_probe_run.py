"""The smoke test against a real HTTP server that imitates vLLM: every way to fail, told apart."""

from __future__ import annotations

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hpcvlm.errors import HpcvlmError
from hpcvlm.probe import cases
from hpcvlm.probe import run as run_module
from hpcvlm.probe.model import CaseResult, Kind, ProbeReport, Sees, Target, Verdict
from hpcvlm.probe.pictures import Picture
from hpcvlm.probe.run import discover_model, run_smoke_test
from tests.stub_openai import (
    FINGERPRINT,
    KEY,
    MODEL,
    TOKENS_PER_IMAGE,
    VERSION,
    Manner,
    StubEngine,
    digest,
)

SEED = 7


def pictures() -> dict[str, str]:
    """What the pictures of the seed show, by digest."""
    singles = (cases.IMAGE_BASE64, cases.IMAGE_URL, cases.IMAGE_FILE)
    drawn = [cases.one_picture(SEED, case)[0] for case in singles]
    drawn += cases.two_pictures(SEED)[0]
    return {digest(picture.png): picture.phrase for picture in drawn}


@pytest.fixture
def manner(tmp_path: Path) -> Manner:
    return Manner(known=pictures(), media_root=tmp_path)


@pytest.fixture
def engine(manner: Manner) -> Iterator[StubEngine]:
    with StubEngine(manner).running() as running:
        yield running


@pytest.fixture
def target(engine: StubEngine, tmp_path: Path) -> Target:
    return Target(
        url=engine.url,
        key=KEY,
        model=MODEL,
        vision=True,
        image_limit=2,
        media_folder=tmp_path,
        same_host=True,
    )


def run(target: Target, **options: Any) -> ProbeReport:
    return run_smoke_test(target, **{"seed": SEED, "timeout_s": 10.0, **options})


def by_name(report: ProbeReport) -> dict[str, CaseResult]:
    return {result.name: result for result in report.results}


def failures(report: ProbeReport) -> dict[str, Kind]:
    return {r.name: r.kind for r in report.results if r.verdict is Verdict.FAILED}


def shown(case: str) -> str:
    return cases.one_picture(SEED, case)[0].phrase


def test_a_server_that_sees_passes_everything(target: Target, engine: StubEngine) -> None:
    report = run(target)
    assert [r.name for r in report.results] == list(cases.CASES)
    assert {r.verdict for r in report.results} == {Verdict.PASSED}
    assert report.ok
    assert (report.engine_version, report.system_fingerprint) == (VERSION, FINGERPRINT)
    assert (report.url, report.model, report.seed) == (engine.url, MODEL, SEED)
    results = by_name(report)
    assert results["models"].reason == "lists tiny-vlm"
    assert results["locked"].reason == "without the key: HTTP 401"
    assert results["text"].answer == "hello there"
    base64 = results["image_base64"]
    assert base64.reason == f"named {shown('image_base64')} (+{TOKENS_PER_IMAGE} tokens)"
    assert (base64.image_tokens, base64.sees) == (TOKENS_PER_IMAGE, Sees.TRUE)
    assert base64.answer == base64.expected == shown("image_base64")
    assert base64.prompt_tokens is not None
    assert results["image_url"].fetched_from == "127.0.0.1"
    assert results["two_images"].image_tokens == 2 * TOKENS_PER_IMAGE
    streaming = results["streaming"]
    assert streaming.first_token_s is not None
    assert streaming.latency_s is not None
    assert 0 < streaming.first_token_s <= streaming.latency_s
    assert results["image_limit"].reason.startswith("refused 3 images: At most 2 image(s)")


def test_what_is_asked(target: Target, engine: StubEngine) -> None:
    run(target)
    assert all(body["temperature"] == 0 for body in engine.requests)
    assert {body["max_tokens"] for body in engine.requests} == {1, 64}
    assert all(body["model"] == MODEL for body in engine.requests)
    streamed = [body for body in engine.requests if body.get("stream")]
    assert [body["stream_options"] for body in streamed] == [{"include_usage": True}]
    without = [body for body in engine.requests if body["max_tokens"] == 1]
    assert len(without) == 2, "each question is asked once without its images"


def test_the_file_is_removed(target: Target, tmp_path: Path) -> None:
    run(target)
    assert list(tmp_path.iterdir()) == []


def test_results_are_told_as_they_come(target: Target) -> None:
    seen: list[CaseResult] = []
    report = run(target, on_result=seen.append)
    assert tuple(seen) == report.results


def test_the_seed_is_random_unless_given(target: Target) -> None:
    first, second = (run_smoke_test(target, require_naming=False).seed for _ in range(2))
    assert first != second


def test_a_blind_model_fails_although_it_answers(target: Target, manner: Manner) -> None:
    manner.blind = True
    report = run(target)
    assert not report.ok
    result = by_name(report)["image_base64"]
    assert (result.verdict, result.kind) == (Verdict.FAILED, Kind.MODEL)
    assert result.reason == (
        f"answered 'a nice picture' to a picture of {shown('image_base64')}, but the image was "
        f"not taken in: {result.prompt_tokens} prompt tokens with it, as many without"
    )
    assert result.image_tokens == 0


def test_a_blind_model_fails_even_when_naming_is_not_required(
    target: Target, manner: Manner
) -> None:
    manner.blind = True
    report = run(target, require_naming=False)
    assert by_name(report)["image_base64"].kind is Kind.MODEL


def test_an_image_taken_in_and_not_recognised(target: Target, manner: Manner) -> None:
    manner.says = "a purple elephant"
    report = run(target)
    result = by_name(report)["image_base64"]
    assert result.verdict is Verdict.FAILED
    assert result.kind is Kind.MODEL
    assert result.sees is Sees.FALSE
    assert result.reason == (
        f"answered 'a purple elephant' to a picture of {shown('image_base64')}: "
        "the image was taken in (+16 tokens) but not recognised"
    )
    assert set(failures(report)) == {"image_base64", "image_url", "image_file", "two_images"}


def test_naming_can_be_waived(target: Target, manner: Manner) -> None:
    manner.says = "a purple elephant"
    report = run(target, require_naming=False)
    assert report.ok
    result = by_name(report)["image_base64"]
    assert result.sees is Sees.FALSE
    assert result.reason.endswith("but not recognised; naming was not asked for")


def test_two_pictures_in_the_wrong_order(target: Target, manner: Manner) -> None:
    manner.swaps = True
    report = run(target)
    assert failures(report) == {"two_images": Kind.MODEL}
    reason = by_name(report)["two_images"].reason
    assert reason.endswith("both images were recognised, in the wrong order")


def test_an_empty_answer(target: Target, manner: Manner) -> None:
    manner.says = ""
    report = run(target)
    assert by_name(report)["text"].reason == "the answer to a question is empty"
    assert by_name(report)["image_base64"].reason == "the answer to an image is empty"
    assert by_name(report)["streaming"].reason == "the answer to a streamed question is empty"


def test_a_thinking_model_is_heard(target: Target, manner: Manner) -> None:
    manner.thinks = True
    assert run(target).ok


def test_a_text_only_server(target: Target, manner: Manner, engine: StubEngine) -> None:
    manner.vision = False
    report = run(replace(target, vision=None))
    assert failures(report) == dict.fromkeys(cases.IMAGE_CASES, Kind.NO_VISION)
    assert {r.verdict for r in report.results[:3]} == {Verdict.PASSED}
    reasons = {by_name(report)[case].reason for case in cases.IMAGE_CASES}
    assert reasons == {"this server has no vision: it takes text only"}
    assert len(engine.requests) == 2, "a server without vision is asked once"


def test_a_model_known_to_be_text_only_is_not_asked_for_images(
    target: Target, manner: Manner
) -> None:
    manner.vision = False
    report = run(replace(target, vision=False))
    assert report.ok
    assert by_name(report)["streaming"].verdict is Verdict.PASSED, "text comes in pieces too"
    others = [case for case in cases.IMAGE_CASES if case != cases.STREAMING]
    assert {by_name(report)[case].verdict for case in others} == {Verdict.SKIPPED}


def test_another_model_is_served(target: Target, manner: Manner) -> None:
    manner.models = ("other", "more")
    report = run(target)
    assert by_name(report)["models"].reason == "the endpoint lists other, more, not tiny-vlm"
    assert by_name(report)["text"].reason == "the endpoint serves no model named tiny-vlm"
    assert by_name(report)["text"].kind is Kind.MODEL


def test_an_open_door(target: Target, manner: Manner) -> None:
    manner.locked = False
    report = run(target)
    assert failures(report) == {"locked": Kind.OPEN}
    assert "anyone who reaches it can use it" in by_name(report)["locked"].reason


def test_an_endpoint_without_a_key(target: Target, manner: Manner) -> None:
    manner.key = None
    report = run(replace(target, key=None))
    assert report.ok
    assert by_name(report)["locked"].verdict is Verdict.SKIPPED


def test_a_wrong_key_ends_the_test(target: Target, engine: StubEngine) -> None:
    report = run(replace(target, key="wrong-key"))
    assert failures(report) == {"models": Kind.AUTH}
    assert by_name(report)["models"].reason == "the endpoint refused the key (HTTP 401)"
    rest = report.results[1:]
    assert {r.verdict for r in rest} == {Verdict.SKIPPED}
    assert {r.reason for r in rest} == {"not asked, as models failed"}
    assert engine.paths == ["/v1/models"]


def test_no_way_to_our_picture(target: Target, manner: Manner) -> None:
    manner.can_fetch = False
    report = run(target)
    assert failures(report) == {"image_url": Kind.NETWORK}
    result = by_name(report)["image_url"]
    assert result.reason.startswith("the engine's node could not reach http://127.0.0.1:")
    assert "no route, no proxy, or a firewall; images by URL will not work there" in result.reason
    assert "base64 works (the engine said: Cannot connect to host 127.0.0.1:" in result.reason
    assert ".png" not in result.reason
    assert "base64" in result.remedy
    assert result.fetched_from is None


def test_a_proxy_that_refuses_counts_as_no_way(target: Target, manner: Manner) -> None:
    manner.fetch_status = 403
    report = run(target)
    assert failures(report) == {"image_url": Kind.NETWORK}


def test_behind_a_tunnel_no_way_is_no_failure(target: Target, manner: Manner) -> None:
    manner.can_fetch = False
    report = run(replace(target, same_host=False))
    assert report.ok
    result = by_name(report)["image_url"]
    assert result.verdict is Verdict.SKIPPED
    assert "loopback address, as through a tunnel" in result.reason


def test_a_policy_against_our_picture(target: Target, manner: Manner) -> None:
    manner.allowed_domains = ("images.example.org",)
    report = run(target)
    assert report.ok
    result = by_name(report)["image_url"]
    assert (result.verdict, result.kind) == (Verdict.SKIPPED, Kind.POLICY)
    assert result.reason == (
        "refused by policy: the engine may fetch images only from ['images.example.org']"
    )


def test_a_picture_fetched_and_then_lost(target: Target, engine: StubEngine) -> None:
    fetch = engine._fetch

    def fetch_and_fail(url: str) -> bytes:
        fetch(url)
        raise RuntimeError("the worker died")

    engine._fetch = fetch_and_fail  # type: ignore[method-assign]
    report = run(target)
    result = by_name(report)["image_url"]
    assert result.fetched_from == "127.0.0.1"
    assert result.kind is Kind.UNREACHABLE
    assert "closed the connection without an answer" in result.reason


def test_no_address_towards_the_engine(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(host: str) -> str:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(run_module, "address_towards", no_address)
    report = run(replace(target, same_host=False))
    result = by_name(report)["image_url"]
    assert result.kind is Kind.LOCAL
    assert result.reason == "this machine could not offer its picture: Network is unreachable"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "cat.png").write_bytes(cases.one_picture(1, "own")[0].png)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_address_of_the_users_own(target: Target, own_server: str) -> None:
    report = run(target, image=f"{own_server}/cat.png")
    assert report.ok
    result = by_name(report)["image_url"]
    assert result.sees is Sees.UNKNOWN
    assert result.reason == "answered 'something odd' (+16 tokens)"
    assert by_name(report)["image_base64"].sees is Sees.TRUE


def test_an_own_address_that_is_missing(target: Target, own_server: str) -> None:
    report = run(target, image=f"{own_server}/dog.png")
    assert failures(report) == {"image_url": Kind.REMOTE}
    assert (
        by_name(report)["image_url"].reason == "the picture's server answered the engine HTTP 404"
    )


def test_an_own_address_out_of_reach(target: Target, manner: Manner, own_server: str) -> None:
    manner.can_fetch = False
    report = run(target, image=f"{own_server}/cat.png?secret=1")
    assert failures(report) == {"image_url": Kind.NETWORK}
    assert f"could not reach {own_server}:" in by_name(report)["image_url"].reason
    assert "secret" not in by_name(report)["image_url"].reason


def test_an_own_file(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    path.write_bytes(cases.one_picture(1, "own")[0].png)
    report = run(target, image=str(path))
    assert report.ok
    result = by_name(report)["image_base64"]
    assert (result.sees, result.expected) == (Sees.UNKNOWN, None)
    assert result.answer == "something odd"


@pytest.mark.parametrize(
    ("content", "code"), [(None, "image-unreadable"), (b"this is no picture", "image-kind")]
)
def test_an_own_file_that_cannot_be_used(
    target: Target, tmp_path: Path, content: bytes | None, code: str
) -> None:
    path = tmp_path / "mine.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HpcvlmError) as caught:
        run(target, image=str(path))
    assert caught.value.code == code


def test_no_media_folder(target: Target) -> None:
    result = by_name(run(replace(target, media_folder=None)))["image_file"]
    assert result.verdict is Verdict.SKIPPED


def test_an_engine_without_a_media_root(target: Target, manner: Manner) -> None:
    manner.media_root = None
    report = run(target)
    assert failures(report) == {"image_file": Kind.POLICY}
    assert "started without an allowed media folder" in by_name(report)["image_file"].reason


def test_a_file_outside_the_media_root(target: Target, manner: Manner, tmp_path: Path) -> None:
    manner.media_root = tmp_path / "elsewhere"
    report = run(target)
    assert failures(report) == {"image_file": Kind.POLICY}
    assert "outside the folder" in by_name(report)["image_file"].reason


def test_a_file_that_the_engine_does_not_see(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = Path.as_uri
    monkeypatch.setattr(Path, "as_uri", lambda path: plain(path).replace("probe", "gone"))
    report = run(target)
    assert failures(report) == {"image_file": Kind.MOUNT}
    assert by_name(report)["image_file"].reason == "the engine does not see the file"
    assert list(tmp_path.iterdir()) == []


def test_a_media_folder_that_is_missing(target: Target, tmp_path: Path) -> None:
    report = run(replace(target, media_folder=tmp_path / "gone"))
    assert failures(report) == {"image_file": Kind.LOCAL}
    reason = by_name(report)["image_file"].reason
    assert reason == f"the test could not write into {tmp_path}/gone: No such file or directory"


def test_one_image_at_a_time(target: Target, manner: Manner) -> None:
    manner.limit = 1
    results = by_name(run(replace(target, image_limit=1)))
    assert results["two_images"].verdict is Verdict.SKIPPED
    assert results["two_images"].reason == "the server is set to 1 image(s) in one request"
    assert results["image_limit"].verdict is Verdict.PASSED


def test_one_image_at_a_time_found_out(target: Target, manner: Manner) -> None:
    manner.limit = 1
    results = by_name(run(replace(target, image_limit=None)))
    assert results["two_images"].verdict is Verdict.SKIPPED
    assert results["two_images"].reason == "the server takes at most 1 image(s) in one request"
    assert results["image_limit"].verdict is Verdict.SKIPPED


def test_a_limit_lower_than_said(target: Target, manner: Manner) -> None:
    manner.limit = 1
    report = run(target)
    assert failures(report) == {"two_images": Kind.LIMIT, "image_limit": Kind.LIMIT}
    assert "not because of a limit of 2" in by_name(report)["image_limit"].reason


def test_a_limit_that_is_not_kept(target: Target, manner: Manner) -> None:
    manner.enforces_limit = False
    report = run(target)
    assert failures(report) == {"image_limit": Kind.LIMIT}
    reason = by_name(report)["image_limit"].reason
    assert reason == "took 3 images in one request although the limit is 2"


def test_a_limit_too_high_to_try(target: Target, engine: StubEngine) -> None:
    result = by_name(run(replace(target, image_limit=999)))["image_limit"]
    assert result.verdict is Verdict.SKIPPED
    contents = [body["messages"][0]["content"] for body in engine.requests]
    assert max(len(content) for content in contents if isinstance(content, list)) == 3


def test_images_switched_off(target: Target, manner: Manner) -> None:
    manner.limit = 0
    report = run(target)
    assert set(failures(report).values()) == {Kind.NO_VISION}
    assert "its limit is 0 images" in by_name(report)["image_base64"].reason


def test_an_image_that_does_not_fit(target: Target, manner: Manner) -> None:
    manner.context = TOKENS_PER_IMAGE
    report = run(target)
    result = by_name(report)["image_base64"]
    assert result.kind is Kind.CONTEXT
    assert result.reason == "the request does not fit into the engine's context of 16 tokens"


def test_no_streaming(target: Target, manner: Manner) -> None:
    manner.streams = False
    report = run(target)
    assert failures(report) == {"streaming": Kind.STREAM}
    reason = by_name(report)["streaming"].reason
    assert reason == "a stream was asked for and the answer came in one piece"


def test_a_stream_without_token_counts(target: Target, manner: Manner) -> None:
    manner.stream_usage = False
    report = run(target)
    assert failures(report) == {"streaming": Kind.STREAM}
    assert "without token counts" in by_name(report)["streaming"].reason


def test_a_stream_that_breaks(target: Target, manner: Manner) -> None:
    manner.stream_breaks = True
    report = run(target)
    assert failures(report) == {"streaming": Kind.ENGINE}
    reason = by_name(report)["streaming"].reason
    assert reason == "the stream ended in an error: EngineCore encountered an issue."


def test_no_token_counts_at_all(target: Target, manner: Manner) -> None:
    manner.usage = False
    report = run(target)
    assert by_name(report)["image_base64"].kind is Kind.PROTOCOL
    assert "reports no token usage" in by_name(report)["image_base64"].reason


def test_a_slow_engine(target: Target, manner: Manner) -> None:
    manner.delay_s = 1.0
    report = run(target, timeout_s=0.2)
    assert failures(report) == {"text": Kind.TIMEOUT}
    reason = by_name(report)["text"].reason
    assert reason == "the endpoint took the request and did not answer within 0.2 s"
    assert by_name(report)["streaming"].reason == "not asked, as text failed"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_nothing_listens(target: Target) -> None:
    report = run(replace(target, url=f"http://127.0.0.1:{free_port()}"))
    assert not report.ok
    assert failures(report) == {"models": Kind.UNREACHABLE}
    assert "cannot be reached" in by_name(report)["models"].reason
    assert "refused" in by_name(report)["models"].reason
    assert report.engine_version is None


def test_an_unknown_name(target: Target) -> None:
    report = run(replace(target, url="http://no-such-node.invalid:8000"))
    assert failures(report) == {"models": Kind.UNREACHABLE}
    assert "host name is not known" in by_name(report)["models"].reason


def test_http_where_https_was_meant(target: Target) -> None:
    report = run(replace(target, url=target.url.replace("http:", "https:")))
    assert failures(report) == {"models": Kind.UNREACHABLE}
    assert "no secure connection" in by_name(report)["models"].reason


@pytest.mark.parametrize(
    ("says", "sentence"),
    [(b"220 node07 ESMTP\r\n\r\n", "does not speak HTTP"), (b"", "closed the connection")],
)
def test_something_else_listens(target: Target, says: bytes, sentence: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(says)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    report = run(replace(target, url=f"http://127.0.0.1:{listener.getsockname()[1]}"))
    thread.join()
    listener.close()
    assert sentence in by_name(report)["models"].reason


def test_proxies_of_the_environment_are_not_used(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert run(target).ok


def test_the_key_stands_nowhere_in_the_report(target: Target, manner: Manner) -> None:
    manner.says = f"your key is {KEY}"
    report = run(target)
    assert KEY not in repr(report)
    assert KEY not in repr(target)
    assert by_name(report)["text"].answer == "your key is ***"


@pytest.mark.parametrize("key", ["two words", "line\nend", "k\u00e9y", ""])
def test_a_key_that_no_request_can_carry(target: Target, key: str) -> None:
    with pytest.raises(HpcvlmError, match="cannot carry") as caught:
        run(replace(target, key=key))
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["node07:8000", "ftp://node07", "", "http://user:word@node07", "http://[::1", "/v1"]
)
def test_an_address_that_cannot_be_used(target: Target, url: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        run(replace(target, url=url))
    assert caught.value.code == "endpoint-address"
    assert "word" not in str(caught.value).replace("password", "")


def test_a_v1_at_the_end_of_the_address_does_no_harm(target: Target) -> None:
    assert run(replace(target, url=f"{target.url}/v1/")).url == target.url


def test_the_model_is_discovered(engine: StubEngine) -> None:
    assert discover_model(engine.url, KEY) == MODEL


@pytest.mark.parametrize(
    ("key", "models", "sentence"),
    [("wrong-key", (MODEL,), "refused the key"), (KEY, (), "lists no model")],
)
def test_no_model_is_discovered(
    engine: StubEngine, manner: Manner, key: str, models: tuple[str, ...], sentence: str
) -> None:
    manner.models = models
    with pytest.raises(HpcvlmError, match=sentence):
        discover_model(engine.url, key)


def test_the_same_seed_draws_the_same_pictures() -> None:
    def drawn(seed: int) -> list[Picture]:
        return [cases.one_picture(seed, case)[0] for case in cases.CASES]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_media_folder_without_permission(target: Target, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    report = run(replace(target, media_folder=folder))
    assert failures(report) == {"image_file": Kind.LOCAL}


def test_no_connection_is_used_twice(target: Target) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["connection"])
        return httpx.Response(500, json={"error": {"message": "no"}})

    report = run(target, transport=httpx.MockTransport(answer))
    assert len(seen) > 5
    assert set(seen) == {"close"}
    assert by_name(report)["text"].reason == "the endpoint answered HTTP 500: no"
