"""From an answer to a verdict. Nothing here talks to anyone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcvlm.probe import cases
from hpcvlm.probe.cases import Question
from hpcvlm.probe.explain import FORBIDDEN, UNAUTHORIZED, Failure, explain
from hpcvlm.probe.model import CaseResult, Kind, Sees, Verdict
from hpcvlm.probe.replies import (
    OK,
    Completion,
    Reply,
    Trouble,
    engine_message,
    model_ids,
    parse_completion,
    parse_stream,
    shortened,
)

FEWEST_PIECES = 2
ANSWER_CHARACTERS = 80
BAD_REQUEST = 400
NOT_AN_API = Failure(
    Kind.PROTOCOL,
    "the answer is not what an OpenAI-compatible server sends",
    "check the address: another service may listen there",
)
USE_BASE64 = "send images as base64, which needs no way out of the node, or give the engine a proxy"


@dataclass(frozen=True, slots=True)
class Fetch:
    """How an image's address was used.

    Args:
        origin: the address without its path, such as ``http://10.0.0.5:41234``.
        fetched_from: addresses that fetched it; None for a server that is not ours.
        base64_answered: the engine answered an image that was sent as base64.
        loopback: the address is only valid on this machine, and the engine may run on another.
    """

    origin: str
    fetched_from: tuple[str, ...] | None
    base64_answered: bool
    loopback: bool = False


def judge_models(reply: Reply, model: str) -> CaseResult:
    """Does the endpoint list the model under the name by which it is asked?"""
    if reply.status != OK:
        return failed(cases.MODELS, explain(reply), reply)
    listed = model_ids(reply.body)
    if listed is None:
        return failed(cases.MODELS, NOT_AN_API, reply)
    if model not in listed:
        names = ", ".join(listed) or "no model at all"
        return failed(
            cases.MODELS,
            Failure(
                Kind.MODEL,
                f"the endpoint lists {names}, not {model}",
                "ask for a listed id; if none is yours, another server has the address",
            ),
            reply,
        )
    return passed(cases.MODELS, f"lists {model}", reply)


def judge_locked(reply: Reply) -> CaseResult:
    """Is a request without the key refused?"""
    if reply.status in (UNAUTHORIZED, FORBIDDEN):
        return passed(cases.LOCKED, f"without the key: HTTP {reply.status}", reply)
    if reply.status == OK:
        return failed(
            cases.LOCKED,
            Failure(
                Kind.OPEN,
                "the endpoint answers without the key: anyone who reaches it can use it",
                "stop the job and launch it anew with a key",
            ),
            reply,
        )
    return failed(cases.LOCKED, explain(reply), reply)


def judge_text(reply: Reply) -> CaseResult:
    """Is a question without an image answered with words?"""
    if reply.status != OK:
        return failed(cases.TEXT, explain(reply), reply)
    completion = parse_completion(reply.body)
    if completion is None:
        return failed(cases.TEXT, NOT_AN_API, reply)
    if not completion.text:
        return failed(cases.TEXT, _said_nothing("a question"), reply, completion)
    return passed(cases.TEXT, f"answered {_quoted(completion)}", reply, completion)


def judge_picture(
    case: str, question: Question, reply: Reply, alone: Reply, *, require_naming: bool
) -> CaseResult:
    """Was the image taken in, and was it recognised?

    Args:
        case: name of the case.
        question: what was asked, and how to check the answer.
        reply: the answer to the request with its images.
        alone: the answer to the same request without them.
        require_naming: fail when the answer does not name what was drawn.
    """
    if reply.status != OK:
        return failed(case, explain(reply), reply)
    completion = parse_completion(reply.body)
    if completion is None:
        return failed(case, NOT_AN_API, reply)
    result = passed(case, "", reply, completion)
    result = replace(result, expected=question.expected, sees=_sees(question, completion))
    if not completion.text:
        return _fail(result, _said_nothing("an image"))
    result = replace(result, image_tokens=_image_tokens(completion, alone))
    unproved = _not_taken_in(question, completion, alone)
    if unproved is not None:
        return _fail(result, unproved)
    return _judge_naming(result, question, completion, require_naming=require_naming)


def judge_pair(result: CaseResult, limit: int | None) -> CaseResult:
    """A server of unknown limit that takes one image at a time has not failed."""
    if result.kind is Kind.LIMIT and limit is None:
        return skipped(result.name, result.reason)
    return result


def judge_url_picture(result: CaseResult, reply: Reply, fetch: Fetch) -> CaseResult:
    """Tell apart who is to blame when an image by URL did not work.

    Args:
        result: what `judge_picture` said of the answer.
        reply: the answer.
        fetch: who fetched the picture.
    """
    if fetch.fetched_from:
        result = replace(result, fetched_from=fetch.fetched_from[0])
    if reply.status == OK or fetch.fetched_from or not _about_the_way(result.kind, fetch):
        return result
    if fetch.loopback:
        return skipped(result.name, _BEHIND_A_TUNNEL)
    return _fail(result, _no_way(fetch, engine_message(reply.body)))


def judge_stream(question: Question, reply: Reply, alone: Reply) -> CaseResult:
    """Does the answer come in pieces, with its token counts at the end?"""
    if reply.status != OK:
        return failed(cases.STREAMING, explain(reply), reply)
    if not reply.events and parse_completion(reply.body) is not None:
        return failed(cases.STREAMING, _in_one_piece(), reply)
    stream = parse_stream(reply.events)
    completion = stream.completion
    result = replace(
        passed(cases.STREAMING, "", reply, completion),
        first_token_s=stream.first_token_s,
        image_tokens=_image_tokens(completion, alone),
        expected=question.expected,
        sees=_sees(question, completion),
    )
    broken = _stream_fault(reply, stream.error, stream.pieces, completion)
    if broken is not None:
        return _fail(result, broken)
    first = 0.0 if stream.first_token_s is None else stream.first_token_s
    return replace(result, reason=f"{stream.pieces} pieces, first text after {first:.2f} s")


def judge_limit(reply: Reply, limit: int) -> CaseResult:
    """Are more images than the limit refused, and for that reason?"""
    asked = limit + 1
    if reply.status == OK:
        return failed(
            cases.IMAGE_LIMIT,
            Failure(
                Kind.LIMIT,
                f"took {asked} images in one request although the limit is {limit}",
                "check the image limit that the engine was started with",
            ),
            reply,
        )
    failure = explain(reply)
    if reply.status != BAD_REQUEST or failure.kind in (Kind.NO_VISION, Kind.AUTH):
        return failed(cases.IMAGE_LIMIT, failure, reply)
    words = engine_message(reply.body)
    if f"at most {limit} image" in words.lower():
        return passed(cases.IMAGE_LIMIT, f"refused {asked} images: {words}", reply)
    return failed(
        cases.IMAGE_LIMIT,
        Failure(
            Kind.LIMIT,
            f"refused {asked} images, but not because of a limit of {limit}: {words}",
            "check the image limit that the engine was started with",
        ),
        reply,
    )


def passed(
    case: str, reason: str, reply: Reply, completion: Completion | None = None
) -> CaseResult:
    """A case that went as it should."""
    said = completion or Completion("")
    return CaseResult(
        name=case,
        verdict=Verdict.PASSED,
        reason=reason,
        latency_s=reply.seconds,
        prompt_tokens=said.prompt_tokens,
        completion_tokens=said.completion_tokens,
        answer=said.text if completion else None,
        http_status=reply.status,
    )


def failed(
    case: str, failure: Failure, reply: Reply, completion: Completion | None = None
) -> CaseResult:
    """A case that did not."""
    return _fail(passed(case, "", reply, completion), failure)


def skipped(case: str, reason: str) -> CaseResult:
    """A case that was not asked, or whose answer says nothing."""
    return CaseResult(name=case, verdict=Verdict.SKIPPED, reason=reason)


def policy_respected(result: CaseResult) -> CaseResult:
    """An engine that was told to fetch from no such host, and does not: no failure of it.

    What the policy forbids cannot be proven; the picture went in by other ways.
    """
    if result.kind is not Kind.POLICY:
        return result
    return replace(
        result, verdict=Verdict.SKIPPED, reason=f"refused by policy: {result.reason}", remedy=""
    )


def failed_unasked(case: str, failure: Failure) -> CaseResult:
    """A case whose failure is known before it is asked."""
    return _fail(skipped(case, ""), failure)


def ends_the_test(result: CaseResult) -> bool:
    """True when asking more would only repeat this failure, and its waiting."""
    by_url = result.name == cases.IMAGE_URL
    return result.kind in (Kind.UNREACHABLE, Kind.AUTH) or (
        result.kind is Kind.TIMEOUT and not by_url
    )


def _judge_naming(
    result: CaseResult,
    question: Question,
    completion: Completion,
    *,
    require_naming: bool,
) -> CaseResult:
    tokens = result.image_tokens
    if result.sees is Sees.UNKNOWN:
        return replace(result, reason=f"answered {_quoted(completion)} (+{tokens} tokens)")
    if result.sees is Sees.TRUE:
        return replace(result, reason=f"named {question.expected} (+{tokens} tokens)")
    if question.swapped is not None and question.swapped(completion.text):
        reason = f"answered {_quoted(completion)}: both images were recognised, in the wrong order"
        return _fail(result, Failure(Kind.MODEL, reason, "check the model's chat template"))
    reason = (
        f"answered {_quoted(completion)} to a picture of {question.expected}: "
        f"the image was taken in (+{tokens} tokens) but not recognised"
    )
    if not require_naming:
        return replace(result, reason=f"{reason}; naming was not asked for")
    remedy = "check the model's weights and chat template; a model too small for this: --no-naming"
    return _fail(result, Failure(Kind.MODEL, reason, remedy))


def _not_taken_in(question: Question, completion: Completion, alone: Reply) -> Failure | None:
    """Why nothing proves that the image reached the model; None when the tokens prove it."""
    if alone.status != OK:
        why = explain(alone)
        return replace(why, reason=f"the same question without the image failed: {why.reason}")
    tokens = _image_tokens(completion, alone)
    if tokens is None:
        return Failure(
            Kind.PROTOCOL,
            "the endpoint reports no token usage: nothing proves that the image was taken in",
            "a proxy in between may have removed it",
        )
    if tokens > 0:
        return None
    shown = f" to a picture of {question.expected}" if question.expected else ""
    return Failure(
        Kind.MODEL,
        f"answered {_quoted(completion)}{shown}, but the image was not taken in: "
        f"{completion.prompt_tokens} prompt tokens with it, as many without",
        "the engine ignores images: check the model and its chat template",
    )


def _image_tokens(completion: Completion, alone: Reply) -> int | None:
    without = parse_completion(alone.body)
    if without is None or without.prompt_tokens is None or completion.prompt_tokens is None:
        return None
    return completion.prompt_tokens - without.prompt_tokens


def _stream_fault(
    reply: Reply, error: str | None, pieces: int, completion: Completion
) -> Failure | None:
    if error is not None:
        return Failure(
            Kind.ENGINE, f"the stream ended in an error: {error}", "see the engine's log"
        )
    if reply.trouble is not Trouble.NONE:
        why = explain(replace(reply, status=None))
        return Failure(Kind.STREAM, f"the stream broke off: {why.reason}", why.remedy)
    if pieces < FEWEST_PIECES:
        return _in_one_piece()
    if not completion.text:
        return _said_nothing("a streamed question")
    if completion.prompt_tokens is None:
        return Failure(
            Kind.STREAM,
            "the stream ended without token counts, which were asked for",
            "a proxy in between may have removed them",
        )
    return None


def _in_one_piece() -> Failure:
    return Failure(
        Kind.STREAM,
        "a stream was asked for and the answer came in one piece",
        "a proxy in between may hold it back",
    )


def _sees(question: Question, completion: Completion) -> Sees:
    if question.named is None:
        return Sees.UNKNOWN
    return Sees.TRUE if question.named(completion.text) else Sees.FALSE


def _said_nothing(to_what: str) -> Failure:
    return Failure(
        Kind.MODEL,
        f"the answer to {to_what} is empty",
        "check the model's chat template and its weights",
    )


def _quoted(completion: Completion) -> str:
    cut = " (cut off)" if completion.cut_off else ""
    return f"'{shortened(completion.text, ANSWER_CHARACTERS)}'{cut}"


def _about_the_way(kind: Kind, fetch: Fetch) -> bool:
    """Whether a failure of a picture that nobody fetched can be put down to the network."""
    if fetch.fetched_from is None:
        return kind in (Kind.TIMEOUT, Kind.NETWORK)
    # With our own picture, which is there, an answer of a web server came from a proxy; and a
    # timeout of the engine's own has no words at all.
    unnamed = kind is Kind.ENGINE and fetch.base64_answered
    return unnamed or kind in (Kind.TIMEOUT, Kind.NETWORK, Kind.REMOTE)


def _no_way(fetch: Fetch, words: str) -> Failure:
    works = "; base64 works" if fetch.base64_answered else ""
    said = f" (the engine said: {words})" if words else ""
    return Failure(
        Kind.NETWORK,
        f"the engine's node could not reach {fetch.origin}: no route, no proxy, or a firewall; "
        f"images by URL will not work there{works}{said}",
        USE_BASE64,
    )


def _fail(result: CaseResult, failure: Failure) -> CaseResult:
    return replace(
        result,
        verdict=Verdict.FAILED,
        kind=failure.kind,
        reason=failure.reason,
        remedy=failure.remedy,
    )


_BEHIND_A_TUNNEL = (
    "the endpoint is reached over a loopback address, as through a tunnel, and its node did not "
    "find this machine's pictures there: images by URL were not tested"
)
