"""What an endpoint's answer says, as values. No effects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

OK = 200
SHOWN_CHARACTERS = 200


class Trouble(StrEnum):
    """Why no answer came at all."""

    NONE = ""
    REFUSED = "refused"
    NAME = "name"
    CONNECT_TIMEOUT = "connect-timeout"
    TIMEOUT = "timeout"
    TLS = "tls"
    BROKEN = "broken"
    NOT_HTTP = "not-http"


@dataclass(frozen=True, slots=True)
class Event:
    """One ``data:`` line of a stream, and the seconds from the request to its arrival."""

    seconds: float
    data: str


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the endpoint, or the trouble that stood in its place.

    Args:
        status: HTTP status, or None when no answer came.
        body: the whole text; empty for a stream, whose lines are in `events`.
        seconds: from the request to the end of the answer.
        content_type: the answer's media type.
        events: the ``data:`` lines of a stream.
        trouble: why there is no answer.
        detail: the words of whoever reported the trouble.
    """

    status: int | None
    body: str = ""
    seconds: float = 0.0
    content_type: str = ""
    events: tuple[Event, ...] = ()
    trouble: Trouble = Trouble.NONE
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion; the token counts are None when the engine left them out."""

    text: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cut_off: bool = False
    system_fingerprint: str | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed chat completion, put together again.

    Args:
        completion: the joined text, and the token counts of the last event if it had them.
        pieces: events that carried a choice.
        first_token_s: seconds to the first text.
        error: the engine's words when it failed in the middle.
    """

    completion: Completion
    pieces: int
    first_token_s: float | None
    error: str | None


def parse_json(text: str) -> dict[str, Any] | None:
    """The JSON object in a text, or None when it is something else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def model_ids(body: str) -> tuple[str, ...] | None:
    """The ids of a ``/v1/models`` answer, or None when it is no such answer."""
    entries = (parse_json(body) or {}).get("data")
    if not isinstance(entries, list):
        return None
    named = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    return tuple(name for name in named if isinstance(name, str))


def parse_completion(body: str) -> Completion | None:
    """A chat completion, or None when the text is not one."""
    value = parse_json(body) or {}
    choice = _first_choice(value)
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, dict):
        return None
    return _completion(value, _text(message), choice.get("finish_reason"))


def parse_stream(events: tuple[Event, ...]) -> Stream:
    """Put the events of a stream together; events that cannot be read are left out."""
    texts: list[str] = []
    pieces, first, finish, error = 0, None, None, None
    last: dict[str, Any] = {}
    for event in events:
        value = parse_json(event.data)
        if value is None:
            continue
        if "error" in value:
            error = engine_message(event.data)
            continue
        last = {**last, **{key: content for key, content in value.items() if content}}
        choice = _first_choice(value)
        if choice is None:
            continue
        pieces += 1
        finish = choice.get("finish_reason") or finish
        text = _text(choice.get("delta"))
        if text and first is None:
            first = event.seconds
        texts.append(text)
    return Stream(_completion(last, "".join(texts), finish), pieces, first, error)


def engine_message(body: str) -> str:
    """The words of an error body in one line, cut to a length that can be shown."""
    value = parse_json(body)
    words: object = body
    if value is not None:
        error = value.get("error", value.get("detail", value.get("message", body)))
        words = error.get("message", "") if isinstance(error, dict) else error
    return shortened(str(words))


def shortened(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """A text in one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _first_choice(value: dict[str, Any]) -> dict[str, Any] | None:
    choices = value.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None


def _text(message: object) -> str:
    """What was said; of a model that is still thinking, what it thinks."""
    if not isinstance(message, dict):
        return ""
    for name in ("content", "reasoning", "reasoning_content"):
        words = message.get(name)
        if isinstance(words, str) and words:
            return words
    return ""


def _completion(value: dict[str, Any], text: str, finish: object) -> Completion:
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    fingerprint = value.get("system_fingerprint")
    return Completion(
        text=text.strip(),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        cut_off=finish == "length",
        system_fingerprint=fingerprint if isinstance(fingerprint, str) else None,
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
