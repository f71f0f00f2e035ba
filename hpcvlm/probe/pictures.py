"""Generated pictures of one coloured shape, and whether an answer names what they show.

The smoke test draws them at run time, and scripts/train_tiny_vlm.py trains the bundled model on the
same kind. They are meant to be unmistakable for any vision-language model: one large plain shape in
a basic colour on a mid-grey ground, which black and white stand out from as well.

Pillow is imported where it is used: importing this module costs next to nothing.
"""

from __future__ import annotations

import base64
import io
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

RGB = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, RGB] = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (30, 60, 230),
    "yellow": (245, 220, 30),
    "orange": (250, 122, 10),
    "purple": (130, 25, 175),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")

QUESTION = "What is shown in the image? Name the colour and the shape."
PAIR_QUESTION = (
    "What is in the first image and what is in the second image? Name the colours and the shapes."
)
TEXT_QUESTION = "Reply with the word ready."

DEFAULT_SIZE = 224
GROUND = (104, 152)
JITTER = 12
# Shapes are drawn larger and scaled down, so that their edges are smooth.
_OVERSAMPLING = 3
_JPEG_QUALITY = 90
# An answer may name one more colour or shape, as in "a red cross on a square grey ground". One
# that lists them all has seen nothing.
_MOST_OTHERS = 1

# What models call these things besides the names above.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "purple": ("violet", "magenta"),
    "circle": ("disc", "disk", "dot", "circular", "round"),
    "triangle": ("triangular",),
    "cross": ("plus",),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One generated picture.

    Attributes:
        colour: a key of `COLOURS`.
        shape: one of `SHAPES`.
        size: width and height in pixels.
        png: the picture as a PNG file.
    """

    colour: str
    shape: str
    size: int
    png: bytes

    @property
    def phrase(self) -> str:
        """What the picture shows: ``a red circle``, ``an orange square``."""
        return phrase(self.colour, self.shape)

    def jpeg(self) -> bytes:
        """The picture as a JPEG file of good quality."""
        from PIL import Image

        buffer = io.BytesIO()
        with Image.open(io.BytesIO(self.png)) as image:
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        return buffer.getvalue()

    def data_url(self, *, jpeg: bool = False) -> str:
        """The picture as a ``data:`` URL, a PNG unless a JPEG is asked for."""
        kind, content = ("jpeg", self.jpeg()) if jpeg else ("png", self.png)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def phrase(colour: str, shape: str) -> str:
    """Colour and shape with the article that English asks for."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def draw_picture(
    rng: random.Random,
    *,
    size: int = DEFAULT_SIZE,
    colour: str | None = None,
    shape: str | None = None,
    ground: int | None = None,
) -> Picture:
    """One picture; the same state of `rng` draws the same one.

    Args:
        rng: source of everything that is not given.
        size: width and height in pixels.
        colour: a key of `COLOURS`, any when left out.
        shape: one of `SHAPES`, any when left out.
        ground: grey level of the ground from 0 to 255, one of middle grey when left out.
    """
    colour = colour or rng.choice(list(COLOURS))
    shape = shape or rng.choice(SHAPES)
    ground = rng.randint(*GROUND) if ground is None else ground
    buffer = io.BytesIO()
    draw_image(rng, size, colour, shape, ground).save(buffer, "PNG")
    return Picture(colour, shape, size, buffer.getvalue())


def draw_pair(rng: random.Random, *, size: int = DEFAULT_SIZE) -> tuple[Picture, Picture]:
    """Two pictures that differ in colour and in shape, so that their order can be told.

    Args:
        rng: source of what is drawn.
        size: width and height of both in pixels.
    """
    colours = rng.sample(list(COLOURS), 2)
    shapes = rng.sample(SHAPES, 2)
    first, second = (
        draw_picture(rng, size=size, colour=colour, shape=shape)
        for colour, shape in zip(colours, shapes, strict=True)
    )
    return first, second


def draw_image(rng: random.Random, size: int, colour: str, shape: str, ground: int) -> Image:
    """One picture as a Pillow image in mode RGB, `size` x `size` pixels."""
    from PIL import Image, ImageDraw

    side = size * _OVERSAMPLING
    image = Image.new("RGB", (side, side), (ground, ground, ground))
    radius = rng.uniform(0.22, 0.38) * side
    x, y = (rng.uniform(1.05 * radius, side - 1.05 * radius) for _ in range(2))
    red, green, blue = (_near(value, rng) for value in COLOURS[colour])
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(red, green, blue))
    for corners in _polygons(shape, x, y, radius):
        draw.polygon(corners, fill=(red, green, blue))
    return image.reduce(_OVERSAMPLING)


def _near(value: int, rng: random.Random) -> int:
    return min(255, max(0, value + rng.randint(-JITTER, JITTER)))


def _polygons(shape: str, x: float, y: float, radius: float) -> list[list[Point]]:
    """The corners of a shape around (x, y); a circle has none."""
    if shape == "triangle":
        width, low = 0.95 * radius, 0.75 * radius
        return [[(x, y - radius), (x - width, y + low), (x + width, y + low)]]
    if shape == "square":
        return [_box(x, y, 0.85 * radius, 0.85 * radius)]
    if shape == "cross":
        return [_box(x, y, radius, 0.3 * radius), _box(x, y, 0.3 * radius, radius)]
    return []


def _box(x: float, y: float, across: float, down: float) -> list[Point]:
    return [
        (x - across, y - down),
        (x + across, y - down),
        (x + across, y + down),
        (x - across, y + down),
    ]


def names_picture(answer: str, picture: Picture) -> bool:
    """Whether an answer names the colour and the shape of a picture, in whole words of any case.

    Usual synonyms count. An answer that names several other colours or shapes as well is a list
    of guesses, and wrong.
    """
    colours = {name for name in COLOURS if _places(answer, name)}
    shapes = {name for name in SHAPES if _places(answer, name)}
    return (
        picture.colour in colours
        and picture.shape in shapes
        and max(len(colours), len(shapes)) <= 1 + _MOST_OTHERS
    )


def names_in_order(answer: str, first: Picture, second: Picture) -> bool:
    """Whether an answer names the first picture's colour and shape before the second's.

    Of several mentions of a word the first counts.
    """
    names = (first.colour, first.shape, second.colour, second.shape)
    places = [_places(answer, name) for name in names]
    if not all(places):
        return False
    starts = [min(found) for found in places]
    return max(starts[:2]) < min(starts[2:])


def _places(answer: str, name: str) -> list[int]:
    """Where an answer says a name or one of its synonyms, in singular or plural."""
    words = "|".join((name, *_SYNONYMS.get(name, ())))
    found = re.finditer(rf"\b(?:{words})(?:e?s)?\b", answer, re.IGNORECASE)
    return [match.start() for match in found]
