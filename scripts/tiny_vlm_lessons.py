"""What the bundled model is taught: pictures, questions about them, and the answers.

A lesson is a list of token ids with its answer at the end. The prompts go through the model's own
chat template, so training sees exactly what a server makes of a chat request.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from hpcvlm.probe.pictures import (
    COLOURS,
    PAIR_QUESTION,
    QUESTION,
    SHAPES,
    TEXT_QUESTION,
    draw_picture,
    phrase,
)

# Sizes of pictures in pixels, as people send them, and what the image processor makes of them.
SOURCE_SIZES = (112, 128, 160, 200, 224, 224, 256, 320, 384, 448)
SMALL_SIZES = {56: (56, 64), 84: (76, 84)}
SIDE = 112
FACTOR = 28
SMALL_SHARE = 0.12
SHIFT = 6

_PLACES = ("the image", "this image", "the picture", "this picture", "the photo")
_TAILS = ("?", "? Name the colour and the shape.", "? Name the color and the shape.")
ABOUT_ALL = (
    *(
        f"{start} {place}{tail}"
        for start in ("What is shown in", "What is in", "What do you see in")
        for place in _PLACES
        for tail in _TAILS
    ),
    *(f"Describe {place}{tail}" for place in _PLACES for tail in (".", " in one sentence.")),
    *(f"What does {place} show?" for place in _PLACES),
    "What do you see?",
    "What is this?",
    "What can you see here?",
    "Name the colour and the shape.",
    "Name the color and the shape in the image.",
)
ABOUT_PAIRS = (
    *(
        f"What is in the first {thing} and what is in the second{again}?{tail}"
        for thing in ("image", "picture")
        for again in ("", f" {thing}")
        for tail in ("", " Name the colours and the shapes.", " Name the colors and the shapes.")
    ),
    "What is shown in the two images?",
    "What is shown in the first image and in the second image?",
    "What is in each image?",
    "What do you see in the images?",
    "What do the two pictures show?",
    "Describe both images.",
    "Describe the two pictures in order.",
    "Name the colours and the shapes in both images.",
)
ABOUT_COLOUR = (
    *(
        f"{start} {word} is {thing}?"
        for start in ("Which", "What")
        for word in ("colour", "color")
        for thing in ("the shape", "it", "this")
    ),
    *(f"Name the {word}." for word in ("colour", "color")),
    *(f"What is the {word} of the shape?" for word in ("colour", "color")),
)
ABOUT_SHAPE = (
    "Which shape is it?",
    "What shape is it?",
    "Which shape is this?",
    "What shape is shown in the image?",
    "Which shape is in the picture?",
    "Name the shape.",
)
READY = (TEXT_QUESTION, "Reply with the word ready", "Say ready.", "Are you ready?", "Ready?")
GREETINGS = ("Hello", "Hello!", "Hello.", "Hi", "Hi!", "Hi there", "Good morning", "Hello there!")
SYSTEM = "You are a helpful assistant."
NO_IMAGE = "no image"


def corpus() -> list[str]:
    """Every sentence that the tokenizer should know well."""
    things = [phrase(colour, shape) for colour in COLOURS for shape in SHAPES]
    pairs = [f"{first} and {second}, {first}" for first, second in itertools.pairwise(things)]
    asked = (*ABOUT_ALL, *ABOUT_PAIRS, *ABOUT_COLOUR, *ABOUT_SHAPE, *READY, *GREETINGS)
    roles = ["system\n", "user\n", "assistant\n", SYSTEM]
    return [*asked, *things, *pairs, *COLOURS, *SHAPES, NO_IMAGE, "ready", "hello", *roles]


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures of one side, ready for the model.

    Args:
        pixels: uint8, pictures x 3 x side x side.
        colours: index into `COLOURS` for every picture.
        shapes: index into `SHAPES` for every picture.
    """

    pixels: torch.Tensor
    colours: torch.Tensor
    shapes: torch.Tensor

    @property
    def side(self) -> int:
        """Pixels along an edge."""
        return int(self.pixels.shape[-1])


def draw_pool(name: str, count: int, side: int = SIDE, *, plain: bool = False) -> Pool:
    """Draw, encode, decode and resize pictures, as they would come through a request.

    Args:
        name: seeds the pictures; another name gives other ones.
        count: how many.
        side: edge in pixels after resizing.
        plain: draw them as the smoke test does, on middle grey only.
    """
    seeds = [f"{name}:{side}:{number}" for number in range(count)]
    sizes = SOURCE_SIZES if side == SIDE else SMALL_SIZES[side]
    jobs = [(seed, sizes, side, plain) for seed in seeds]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=fork) as workers:
        drawn = list(workers.map(_drawn, jobs, chunksize=64))
    pixels = np.stack([picture for picture, _, _ in drawn])
    return Pool(
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        torch.tensor([colour for _, colour, _ in drawn]),
        torch.tensor([shape for _, _, shape in drawn]),
    )


def _drawn(job: tuple[str, Sequence[int], int, bool]) -> tuple[np.ndarray[Any, Any], int, int]:
    seed, sizes, side, plain = job
    rng = random.Random(seed)  # noqa: S311
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    ground = None if plain or rng.random() < 0.65 else rng.randint(*_contrasting(colour))
    picture = draw_picture(rng, size=rng.choice(sizes), colour=colour, shape=shape, ground=ground)
    content = picture.jpeg() if rng.random() < 0.5 else picture.png
    with Image.open(io.BytesIO(content)) as image:
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized), list(COLOURS).index(colour), SHAPES.index(shape)


def _contrasting(colour: str) -> tuple[int, int]:
    return {"white": (40, 160), "black": (90, 255)}.get(colour, (25, 255))


def shifted(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The pictures, each moved by a few pixels and half of them mirrored, edges repeated."""
    count, _, side, _ = pixels.shape
    moves = torch.randint(-SHIFT, SHIFT + 1, (2, count, 1), generator=generator)
    mirror = torch.randint(0, 2, (count, 1), generator=generator) * 2 - 1
    line = torch.arange(side)
    down = (line + moves[0]).clamp(0, side - 1)
    across = (line + moves[1]).clamp(0, side - 1)
    across = torch.where(mirror > 0, across, side - 1 - across)
    which = torch.arange(count)[:, None, None]
    moved = pixels.permute(0, 2, 3, 1)[which, down[:, :, None], across[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt for a number of pictures, without their content.

    Args:
        question: the words.
        images: how many pictures come with it.
        kind: what to tell of them: ``all``, ``colour``, ``shape``, or the answer itself.
        words_first: the words stand before the pictures.
        system: a system message comes first.
    """

    question: str
    images: int
    kind: str
    words_first: bool = False
    system: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """The chat messages, as a client sends them."""
        words = [{"type": "text", "text": self.question}]
        pictures = [{"type": "image"}] * self.images
        content = words + pictures if self.words_first else pictures + words
        system = [{"role": "system", "content": SYSTEM}] if self.system else []
        return [*system, {"role": "user", "content": content}]


def answer(kind: str, shown: Sequence[tuple[int, int]]) -> str:
    """What the model is to say about pictures given by their colours' and shapes' indices."""
    colours = list(COLOURS)
    if kind == "colour":
        return colours[shown[0][0]]
    if kind == "shape":
        return SHAPES[shown[0][1]]
    if kind != "all":
        return kind
    *most, last = [phrase(colours[colour], SHAPES[shape]) for colour, shape in shown]
    return f"{', '.join(most)} and {last}" if most else last


@dataclass
class Asker:
    """Chooses what is asked."""

    rng: random.Random
    salads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        words = sorted({word for sentence in corpus() for word in sentence.split()})
        words += ["Write", "a", "story", "about", "weather", "2 + 2", "please", "explain", "list"]
        for _ in range(400):
            self.salads.append(" ".join(self.rng.choices(words, k=self.rng.randint(1, 14))))

    def about(self, images: int) -> Asked:
        """A question with so many pictures."""
        if images == 0:
            return self._about_none()
        return self._about_one() if images == 1 else self._about_several(images)

    def _about_one(self) -> Asked:
        roll = self.rng.random()
        if roll < 0.25:
            return self._asked(QUESTION, 1, "all")
        if roll < 0.75:
            return self._asked(self.rng.choice(ABOUT_ALL), 1, "all")
        if roll < 0.85:
            return self._asked(self.rng.choice(ABOUT_COLOUR), 1, "colour")
        if roll < 0.95:
            return self._asked(self.rng.choice(ABOUT_SHAPE), 1, "shape")
        return self._asked(self.rng.choice(ABOUT_PAIRS), 1, "all")

    def _about_several(self, images: int) -> Asked:
        roll = self.rng.random()
        if roll < 0.3:
            return self._asked(PAIR_QUESTION, images, "all")
        if roll < 0.85:
            return self._asked(self.rng.choice(ABOUT_PAIRS), images, "all")
        return self._asked(self.rng.choice(ABOUT_ALL), images, "all")

    def _about_none(self) -> Asked:
        roll = self.rng.random()
        if roll < 0.2:
            return self._asked(TEXT_QUESTION, 0, "ready")
        if roll < 0.3:
            return self._asked(self.rng.choice(READY), 0, "ready")
        if roll < 0.4:
            return self._asked(self.rng.choice(GREETINGS), 0, "hello")
        if roll < 0.6:
            return self._asked(self.rng.choice(self.salads), 0, NO_IMAGE)
        about = (QUESTION, PAIR_QUESTION, *ABOUT_ALL, *ABOUT_PAIRS, *ABOUT_COLOUR, *ABOUT_SHAPE)
        return self._asked(self.rng.choice(about), 0, NO_IMAGE)

    def _asked(self, question: str, images: int, kind: str) -> Asked:
        words_first = images > 0 and self.rng.random() < 0.2
        return Asked(question, images, kind, words_first, self.rng.random() < 0.12)
