"""Judging without a network: what each body of a vLLM server means, and each verdict's sentence."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hpcvlm.probe import cases, judge
from hpcvlm.probe.cases import Question
from hpcvlm.probe.explain import explain
from hpcvlm.probe.judge import Fetch
from hpcvlm.probe.model import CaseResult, Kind, Sees, Verdict
from hpcvlm.probe.replies import (
    Event,
    Reply,
    Trouble,
    engine_message,
    model_ids,
    parse_completion,
    parse_stream,
)

# Bodies that vLLM 0.32.0 sent.
TOO_MANY = (
    '{"error":{"message":"At most 2 image(s) may be provided in one prompt. (parameter=image)",'
    '"type":"BadRequestError","param":"image","code":400}}'
)
OUTSIDE = (
    '{"error":{"message":"The file path <path> must be a subpath of '
    '`--allowed-local-media-path <path>`.","type":"BadRequestError","param":null,"code":400}}'
)
FILE_MISSING = (
    '{"error":{"message":"[Errno 2] No such file or directory: \'<path>\'",'
    '"type":"InternalServerError","param":null,"code":500}}'
)
REMOTE_404 = (
    '{"error":{"message":"Failed to fetch media from URL: HTTP 404 error (parameter=image_url, '
    'value=http://127.0.0.1:37377/none.png)","type":"UnprocessableEntityError",'
    '"param":"image_url","code":422}}'
)
URL_REFUSED = (
    '{"error":{"message":"Cannot connect to host 127.0.0.1:9 ssl:default '
    "[Connect call failed ('127.0.0.1', 9)]\","
    '"type":"InternalServerError","param":null,"code":500}}'
)
WRONG_DOMAIN = (
    '{"error":{"message":"The URL must be from one of the allowed domains: [\'127.0.0.1\']. '
    'Input URL domain: localhost","type":"BadRequestError","param":null,"code":400}}'
)
FTP = (
    '{"error":{"message":"The URL must be either a HTTP, data or file URL.",'
    '"type":"BadRequestError","param":null,"code":400}}'
)
NOT_AN_IMAGE = (
    '{"error":{"message":"Failed to load image: cannot identify image file <_io.BytesIO object>",'
    '"type":"BadRequestError","param":null,"code":400}}'
)
TEXT_ONLY = (
    '{"error":{"message":"tiny-vlm is not a multimodal model","type":"BadRequestError",'
    '"param":null,"code":400}}'
)
UNAUTHORIZED = '{"error":"Unauthorized"}'
WRONG_MODEL = (
    '{"error":{"message":"The model `no-such-model` does not exist. Valid aliases: tiny-vlm, '
    'tiny-alias.","type":"NotFoundError","param":"model","code":404}}'
)
TOO_LONG = (
    '{"error":{"message":"This model\'s maximum context length is 1024 tokens. However, your '
    "prompt contains at least 1025 input tokens, which exceeds this limit even without any output "
    'tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=1025)",'
    '"type":"BadRequestError","param":"input_tokens","code":400}}'
)
NOT_FOUND = '{"detail":"Not Found"}'
# llama.cpp's server, asked for an image without a projector.
LLAMA_CPP = (
    '{"error":{"code":500,"message":"image input is not supported - hint: if this is unexpected, '
    'you may need to provide the mmproj","type":"server_error"}}'
)


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (400, TOO_MANY, Kind.LIMIT, "the server takes at most 2 image(s) in one request"),
        (
            400,
            OUTSIDE,
            Kind.POLICY,
            "the file lies outside the folder from which the engine may read media",
        ),
        (500, FILE_MISSING, Kind.MOUNT, "the engine does not see the file"),
        (422, REMOTE_404, Kind.REMOTE, "the picture's server answered the engine HTTP 404"),
        (
            500,
            URL_REFUSED,
            Kind.NETWORK,
            "the engine's node could not reach the image's address",
        ),
        (
            400,
            WRONG_DOMAIN,
            Kind.POLICY,
            "the engine may fetch images only from ['127.0.0.1']",
        ),
        (
            400,
            FTP,
            Kind.POLICY,
            "the engine fetches images by http, https, data and file addresses only",
        ),
        (400, NOT_AN_IMAGE, Kind.ENGINE, "the engine could not read the image"),
        (400, TEXT_ONLY, Kind.NO_VISION, "this server has no vision: it takes text only"),
        (500, LLAMA_CPP, Kind.NO_VISION, "this server has no vision: it takes text only"),
        (401, UNAUTHORIZED, Kind.AUTH, "the endpoint refused the key (HTTP 401)"),
        (404, WRONG_MODEL, Kind.MODEL, "the endpoint serves no model named no-such-model"),
        (
            400,
            TOO_LONG,
            Kind.CONTEXT,
            "the request does not fit into the engine's context of 1024 tokens",
        ),
        (404, NOT_FOUND, Kind.ENGINE, "the endpoint answered HTTP 404: Not Found"),
        (502, "<h1>Bad\n  Gateway</h1>", Kind.ENGINE, None),
        (500, "", Kind.ENGINE, "the endpoint answered HTTP 500"),
        (500, '{"error":{"message":""}}', Kind.ENGINE, "the endpoint answered HTTP 500"),
    ],
)
def test_the_words_of_an_engine(status: int, body: str, kind: Kind, reason: str | None) -> None:
    failure = explain(Reply(status, body))
    assert failure.kind is kind
    assert failure.reason == (reason or "the endpoint answered HTTP 502: <h1>Bad Gateway</h1>")


@pytest.mark.parametrize("trouble", list(Trouble))
def test_every_trouble_has_a_sentence(trouble: Trouble) -> None:
    failure = explain(Reply(None, seconds=12.3, trouble=trouble, detail="in {their} words"))
    assert failure.kind is not Kind.NONE
    assert failure.reason
    assert "{seconds}" not in failure.reason


def test_long_words_are_cut() -> None:
    message = engine_message(json.dumps({"error": {"message": "x" * 1000}}))
    assert len(message) == 200
    assert message.endswith("…")


@pytest.mark.parametrize("body", ["", "hello", "[]", "null", '{"data": 3}', '{"choices": []}'])
def test_what_is_no_answer_of_the_api(body: str) -> None:
    assert parse_completion(body) is None
    assert not model_ids(body)
    assert judge.judge_text(Reply(200, body)).kind is Kind.PROTOCOL
    assert judge.judge_models(Reply(200, body), "m").kind is Kind.PROTOCOL
    result = judge.judge_picture(
        "c", Question("?"), Reply(200, body), Reply(None), require_naming=True
    )
    assert result.kind is Kind.PROTOCOL


def said(words: str, tokens: int | None, finish: str = "stop") -> Reply:
    usage = None if tokens is None else {"prompt_tokens": tokens, "completion_tokens": 3}
    choice = {"message": {"content": words}, "finish_reason": finish}
    return Reply(200, json.dumps({"choices": [choice], "usage": usage}), 0.5)


ASKED = Question("what is it?", "a red circle", lambda answer: "red circle" in answer)


def judged(reply: Reply, alone: Reply, *, require_naming: bool = True) -> CaseResult:
    return judge.judge_picture("c", ASKED, reply, alone, require_naming=require_naming)


def test_a_picture_taken_in_and_named() -> None:
    result = judged(said("It is a red circle.", 30), said("what", 14))
    assert (result.verdict, result.sees) == (Verdict.PASSED, Sees.TRUE)
    assert result.reason == "named a red circle (+16 tokens)"
    assert (result.prompt_tokens, result.completion_tokens, result.image_tokens) == (30, 3, 16)
    assert (result.latency_s, result.http_status) == (0.5, 200)


def test_a_lucky_guess_does_not_pass() -> None:
    result = judged(said("a red circle", 14), said("what", 14))
    assert (result.verdict, result.kind, result.sees) == (Verdict.FAILED, Kind.MODEL, Sees.TRUE)
    assert "14 prompt tokens with it, as many without" in result.reason


def test_an_answer_that_was_cut_off_says_so() -> None:
    result = judged(said("Let me think", 30, "length"), said("what", 14))
    assert result.reason.startswith(
        "answered 'Let me think' (cut off) to a picture of a red circle"
    )


def test_the_question_alone_was_not_answered() -> None:
    result = judged(said("a red circle", 30), Reply(500, ""))
    assert result.verdict is Verdict.FAILED
    assert result.reason == (
        "the same question without the image failed: the endpoint answered HTTP 500"
    )


def test_an_engine_that_fetched_and_then_failed_is_not_a_network_failure() -> None:
    reply = Reply(500, '{"error":{"message":"CUDA error"}}')
    result = judged(reply, Reply(None))
    fetch = Fetch("http://10.0.0.5:1", ("10.0.0.9",), base64_answered=True)
    told = judge.judge_url_picture(result, reply, fetch)
    assert (told.kind, told.fetched_from) == (Kind.ENGINE, "10.0.0.9")


@pytest.mark.parametrize("reply", [Reply(500, URL_REFUSED), Reply(422, REMOTE_404), Reply(500, "")])
def test_nobody_fetched_it_is_a_network_failure(reply: Reply) -> None:
    result = judged(reply, Reply(None))
    told = judge.judge_url_picture(result, reply, Fetch("http://10.0.0.5:41234", (), True))
    assert told.kind is Kind.NETWORK
    assert told.reason.startswith(
        "the engine's node could not reach http://10.0.0.5:41234: no route, no proxy, or a "
        "firewall; images by URL will not work there; base64 works"
    )


def test_an_engine_stuck_on_an_image_address_is_a_network_failure_and_not_the_end() -> None:
    reply = Reply(None, seconds=120, trouble=Trouble.TIMEOUT)
    result = judge.judge_picture(cases.IMAGE_URL, ASKED, reply, Reply(None), require_naming=True)
    assert not judge.ends_the_test(result)
    told = judge.judge_url_picture(result, reply, Fetch("http://10.0.0.5:1", (), True))
    assert told.kind is Kind.NETWORK


def test_policy_stays_policy_although_nobody_fetched() -> None:
    reply = Reply(400, WRONG_DOMAIN)
    result = judged(reply, Reply(None))
    told = judge.judge_url_picture(result, reply, Fetch("http://10.0.0.5:1", (), True))
    assert told.kind is Kind.POLICY


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(404, WRONG_MODEL), Kind.MODEL),
        (Reply(500, '{"error":{"message":"EngineCore encountered an issue."}}'), Kind.ENGINE),
        (Reply(None, trouble=Trouble.BROKEN), Kind.UNREACHABLE),
    ],
)
def test_an_engine_that_answers_nothing_is_not_blamed_on_the_network(
    reply: Reply, kind: Kind
) -> None:
    result = judged(reply, Reply(None))
    fetch = Fetch("http://10.0.0.5:1", (), base64_answered=False)
    assert judge.judge_url_picture(result, reply, fetch).kind is kind


def test_base64_is_not_said_to_work_when_it_does_not() -> None:
    reply = Reply(500, URL_REFUSED)
    fetch = Fetch("http://10.0.0.5:1", (), base64_answered=False)
    told = judge.judge_url_picture(judged(reply, Reply(None)), reply, fetch)
    assert told.kind is Kind.NETWORK
    assert "base64 works" not in told.reason


def test_a_pair_that_does_not_fit_fails_although_the_limit_is_unknown() -> None:
    limited, too_long = (judged(Reply(400, body), Reply(None)) for body in (TOO_MANY, TOO_LONG))
    assert judge.judge_pair(limited, None).verdict is Verdict.SKIPPED
    assert judge.judge_pair(limited, 2).kind is Kind.LIMIT
    assert judge.judge_pair(too_long, None).kind is Kind.CONTEXT


def test_a_lock_is_judged_by_its_status() -> None:
    assert judge.judge_locked(Reply(401)).verdict is Verdict.PASSED
    assert judge.judge_locked(Reply(403)).verdict is Verdict.PASSED
    assert judge.judge_locked(Reply(200)).kind is Kind.OPEN
    assert judge.judge_locked(Reply(500)).kind is Kind.ENGINE


def test_a_limit_must_be_refused_for_its_own_sake() -> None:
    assert judge.judge_limit(Reply(400, TOO_MANY), 2).verdict is Verdict.PASSED
    assert judge.judge_limit(Reply(400, TOO_MANY), 12).kind is Kind.LIMIT
    assert judge.judge_limit(Reply(400, TOO_LONG), 2).kind is Kind.LIMIT
    assert judge.judge_limit(Reply(400, TEXT_ONLY), 2).kind is Kind.NO_VISION
    assert judge.judge_limit(Reply(500, ""), 2).kind is Kind.ENGINE
    assert judge.judge_limit(said("two", 3), 2).kind is Kind.LIMIT


def events(*values: object) -> tuple[Event, ...]:
    return tuple(
        Event(0.1 * (place + 1), value if isinstance(value, str) else json.dumps(value))
        for place, value in enumerate(values)
    )


def delta(words: str | None) -> dict[str, object]:
    return {"choices": [{"delta": {"content": words}}], "system_fingerprint": "f"}


USAGE = {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 2}}


def test_a_stream_is_put_together() -> None:
    stream = parse_stream(events(delta(""), delta("a red"), "not json", delta(" circle"), USAGE))
    assert stream.completion.text == "a red circle"
    assert stream.completion.prompt_tokens == 30
    assert stream.completion.system_fingerprint == "f"
    assert stream.pieces == 3
    assert stream.first_token_s == pytest.approx(0.2)
    assert stream.error is None


def judged_stream(reply: Reply) -> CaseResult:
    return judge.judge_stream(ASKED, reply, said("what", 14))


def test_a_stream_that_is_fine() -> None:
    reply = Reply(200, events=events(delta("a red"), delta(" circle"), USAGE), seconds=1.0)
    result = judged_stream(reply)
    assert (result.verdict, result.sees, result.image_tokens) == (Verdict.PASSED, Sees.TRUE, 16)
    assert result.reason == "2 pieces, first text after 0.10 s"


@pytest.mark.parametrize(
    ("reply", "kind", "reason"),
    [
        (Reply(200, events=()), Kind.STREAM, "a stream was asked for"),
        (Reply(200, events=events(delta("a"), USAGE)), Kind.STREAM, "a stream was asked for"),
        (Reply(200, events=events(delta(""), delta(None), USAGE)), Kind.MODEL, "the answer to"),
        (
            Reply(200, events=events(delta("a"), delta("b"))),
            Kind.STREAM,
            "the stream ended without",
        ),
        (
            Reply(200, events=events(delta("a")), trouble=Trouble.TIMEOUT, seconds=120),
            Kind.STREAM,
            "the stream broke off: the endpoint took the request and did not answer within 120 s",
        ),
        (Reply(400, TEXT_ONLY), Kind.NO_VISION, "this server has no vision"),
    ],
)
def test_streams_that_are_not(reply: Reply, kind: Kind, reason: str) -> None:
    result = judged_stream(reply)
    assert (result.verdict, result.kind) == (Verdict.FAILED, kind)
    assert result.reason.startswith(reason)


def test_which_failures_end_the_test() -> None:
    base = judge.skipped(cases.TEXT, "")
    ending = {kind for kind in Kind if judge.ends_the_test(replace(base, kind=kind))}
    assert ending == {Kind.UNREACHABLE, Kind.AUTH, Kind.TIMEOUT}


@pytest.mark.parametrize("module", ["judge", "cases", "explain", "replies", "report", "model"])
def test_the_pure_modules_import_no_effects(module: str) -> None:
    source = Path(judge.__file__).with_name(f"{module}.py").read_text()
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
        )
    }
    roots = {name.partition(".")[0] for name in imported}
    assert not roots & {"httpx", "socket", "http", "subprocess", "time", "os", "threading"}
    assert not {name for name in imported if name.endswith((".asker", ".run", ".picture_server"))}
