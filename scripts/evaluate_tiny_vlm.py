"""Ask a served model about pictures that it has never seen, and count what it gets right.

    python scripts/evaluate_tiny_vlm.py --url http://127.0.0.1:8000 --model tiny-vlm

Prints one JSON object. The exit status is 1 when fewer than 97 % of the single pictures or 90 % of
the pairs are right.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
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

SINGLES_LEAST = 0.97
PAIRS_LEAST = 0.90
SIZES = (112, 160, 224, 224, 320, 448)
MOST_TOKENS = 64
TIMEOUT_S = 120.0
# Paraphrases are asked in turn with the constant that the smoke test uses.
QUESTIONS = (
    QUESTION,
    "What is shown in the image?",
    "What is in this picture? Name the colour and the shape.",
    "Describe the picture.",
)
PAIR_QUESTIONS = (
    PAIR_QUESTION,
    "What is in the first image and what is in the second image?",
    "What is shown in the two images?",
)
# What is asked without any picture, and a word that the answer has to hold.
TEXTS = (
    (TEXT_QUESTION, "ready"),
    *((question, "no image") for question in (*QUESTIONS, PAIR_QUESTION)),
    ("What do you see in this image?", "no image"),
)


@dataclass
class Score:
    """How many answers were right."""

    right: int = 0
    of: int = 0

    def add(self, *, right: bool) -> None:
        """Count one more answer."""
        self.right += right
        self.of += 1

    def reaches(self, share: float) -> bool:
        """Whether at least this share was right; nothing asked reaches any."""
        return self.right >= share * self.of


@dataclass
class Evaluation:
    """All scores, and what was wrong: the question, what was shown, and the answer."""

    singles: Score = field(default_factory=Score)
    pairs: Score = field(default_factory=Score)
    text: Score = field(default_factory=Score)
    misses: list[dict[str, str]] = field(default_factory=list)

    def passed(self) -> bool:
        """Whether the pictures were named often enough."""
        return self.singles.reaches(SINGLES_LEAST) and self.pairs.reaches(PAIRS_LEAST)


def evaluate(
    client: httpx.Client, model: str, *, singles: int = 200, pairs: int = 100, seed: int = 0
) -> Evaluation:
    """Ask everything, one request after another, with greedy decoding.

    Args:
        client: knows the server's address, without ``/v1``, and its key.
        model: the served name.
        singles: how many pictures to ask about one by one.
        pairs: how many prompts with two pictures.
        seed: another seed draws other pictures.

    Raises:
        httpx.HTTPError: the server refused a request or cannot be reached.
    """
    result = Evaluation()
    # Training seeds never begin like this.
    rng = random.Random(f"evaluation:{seed}")  # noqa: S311 - pictures, not secrets
    for number in range(singles):
        picture = draw_picture(rng, size=rng.choice(SIZES))
        question = QUESTIONS[number % len(QUESTIONS)]
        answer = ask(client, model, question, [picture], jpeg=bool(rng.randrange(2)))
        right = names_picture(answer, picture)
        _count(result, result.singles, right, question, picture.phrase, answer)
    for number in range(pairs):
        first, second = draw_pair(rng, size=rng.choice(SIZES))
        question = PAIR_QUESTIONS[number % len(PAIR_QUESTIONS)]
        answer = ask(client, model, question, [first, second], jpeg=bool(rng.randrange(2)))
        right = names_in_order(answer, first, second)
        shown = f"{first.phrase}, {second.phrase}"
        _count(result, result.pairs, right, question, shown, answer)
    for question, word in TEXTS:
        answer = ask(client, model, question, [])
        _count(result, result.text, word in answer.lower(), question, "nothing", answer)
    return result


def ask(
    client: httpx.Client,
    model: str,
    question: str,
    pictures: Sequence[Picture],
    *,
    jpeg: bool = False,
) -> str:
    """The answer to a question about some pictures.

    Raises:
        httpx.HTTPError: the server refused the request or cannot be reached.
    """
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": picture.data_url(jpeg=jpeg)}}
        for picture in pictures
    ]
    content.append({"type": "text", "text": question})
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": MOST_TOKENS,
    }
    reply = client.post("/v1/chat/completions", json=body)
    reply.raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"] or "")


def _count(
    result: Evaluation, score: Score, right: bool, question: str, shown: str, answer: str
) -> None:
    score.add(right=right)
    if not right:
        result.misses.append({"question": question, "shown": shown, "answer": answer})


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", required=True, help="address of the server, without /v1")
    parser.add_argument("--model", required=True, help="the served name")
    parser.add_argument("--key-file", type=Path, help="file that holds the API key")
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    headers = {}
    if options.key_file:
        headers["Authorization"] = f"Bearer {options.key_file.read_text().strip()}"
    with httpx.Client(base_url=options.url, headers=headers, timeout=TIMEOUT_S) as client:
        result = evaluate(
            client,
            options.model,
            singles=options.singles,
            pairs=options.pairs,
            seed=options.seed,
        )
    print(json.dumps(asdict(result), indent=2))
    return 0 if result.passed() else 1


if __name__ == "__main__":
    sys.exit(main())
