"""What the smoke test asks: the order of its cases, and the bodies of its requests. No effects."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcvlm.probe.pictures import (
    PAIR_QUESTION,
    QUESTION,
    TEXT_QUESTION,
    Picture,
    draw_pair,
    draw_picture,
    names_in_order,
    names_picture,
)

MODELS = "models"
LOCKED = "locked"
TEXT = "text"
IMAGE_BASE64 = "image_base64"
IMAGE_URL = "image_url"
IMAGE_FILE = "image_file"
TWO_IMAGES = "two_images"
STREAMING = "streaming"
IMAGE_LIMIT = "image_limit"
CASES = (
    MODELS,
    LOCKED,
    TEXT,
    IMAGE_BASE64,
    IMAGE_URL,
    IMAGE_FILE,
    TWO_IMAGES,
    STREAMING,
    IMAGE_LIMIT,
)
IMAGE_CASES = (IMAGE_BASE64, IMAGE_URL, IMAGE_FILE, TWO_IMAGES, STREAMING, IMAGE_LIMIT)
PAIR = 2
MOST_IMAGES_TRIED = 16
LIMIT_PICTURE_PIXELS = 64

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about one or two pictures, and how its answer is checked.

    Args:
        prompt: the words that go with the pictures.
        expected: what is to be seen, in words; None for a picture that the test did not draw.
        named: tells whether an answer names it; None for a picture that the test did not draw.
        swapped: tells whether an answer names both pictures in the wrong order.
    """

    prompt: str
    expected: str | None = None
    named: Callable[[str], bool] | None = None
    swapped: Callable[[str], bool] | None = None


def rng_for(seed: int, case: str) -> random.Random:
    """The source of a case's pictures: the same seed draws them again, whichever cases run."""
    return random.Random(f"{seed}:{case}")  # noqa: S311 - pictures, not secrets


def one_picture(seed: int, case: str) -> tuple[Picture, Question]:
    """A fresh picture and the question about it."""
    picture = draw_picture(rng_for(seed, case))
    return picture, Question(
        QUESTION, picture.phrase, lambda answer: names_picture(answer, picture)
    )


def two_pictures(seed: int) -> tuple[tuple[Picture, Picture], Question]:
    """Two different pictures and the question about both."""
    first, second = draw_pair(rng_for(seed, TWO_IMAGES))
    return (first, second), Question(
        PAIR_QUESTION,
        f"{first.phrase}, then {second.phrase}",
        lambda answer: names_in_order(answer, first, second),
        lambda answer: names_in_order(answer, second, first),
    )


TEXT_ONLY = Question(TEXT_QUESTION)


def unknown_picture() -> Question:
    """The question about a picture that the user brought."""
    return Question(QUESTION)


def text_body(model: str, max_tokens: int) -> Body:
    """A plain question, sent as a string as the simplest client does."""
    return _body(model, TEXT_QUESTION, max_tokens)


def picture_body(model: str, prompt: str, urls: tuple[str, ...], max_tokens: int) -> Body:
    """A question about the images at these addresses, in this order.

    Without an address it is the same request without its images, whose prompt tokens are what
    the images' tokens are counted from.
    """
    parts: list[Body] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return _body(model, [*parts, {"type": "text", "text": prompt}], max_tokens)


def as_stream(body: Body) -> Body:
    """The same request, answered piece by piece, with the token counts at the end."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def over_limit_urls(seed: int, limit: int) -> tuple[str, ...]:
    """One image more than `limit`, small ones, as data URLs."""
    picture = draw_picture(rng_for(seed, IMAGE_LIMIT), size=LIMIT_PICTURE_PIXELS)
    return (picture.data_url(),) * (limit + 1)


def _body(model: str, content: str | list[Body], max_tokens: int) -> Body:
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
