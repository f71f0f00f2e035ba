"""The generated pictures, and the judge of what is said about them."""

from __future__ import annotations

import base64
import io
import itertools
import math
import random
import subprocess
import sys

import pytest
from PIL import Image

from hpcvlm.probe.pictures import (
    COLOURS,
    GROUND,
    JITTER,
    SHAPES,
    Picture,
    draw_pair,
    draw_picture,
    names_in_order,
    names_picture,
    phrase,
)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)


def shown(colour: str, shape: str) -> Picture:
    return Picture(colour, shape, 224, b"")


def pixels(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(picture.png))


def share_of_shape(image: Image.Image, colour: str) -> float:
    """How much of a picture is nearer to the colour than to its ground, which the corner shows."""
    data = image.convert("RGB").tobytes()
    ground = tuple(data[:3])
    points = [data[at : at + 3] for at in range(0, len(data), 3)]
    near = sum(math.dist(point, COLOURS[colour]) < math.dist(point, ground) for point in points)
    return near / len(points)


def test_the_same_seed_draws_the_same_picture() -> None:
    first, second = (draw_picture(seeded(7)) for _ in range(2))
    assert first == second
    assert draw_picture(seeded(8)).png != first.png


def test_a_sequence_of_pictures_differs_and_holds_every_colour_and_shape() -> None:
    rng = seeded(1)
    drawn = [draw_picture(rng, size=32) for _ in range(200)]
    assert len({picture.png for picture in drawn}) == len(drawn)
    assert {picture.colour for picture in drawn} == set(COLOURS)
    assert {picture.shape for picture in drawn} == set(SHAPES)


@pytest.mark.parametrize("size", [64, 112, 224, 448])
def test_a_picture_has_the_size_that_was_asked_for(size: int) -> None:
    picture = draw_picture(seeded(2), size=size)
    assert picture.size == size
    assert pixels(picture).size == (size, size)
    assert pixels(picture).mode == "RGB"


def test_what_is_given_is_drawn() -> None:
    picture = draw_picture(seeded(3), colour="orange", shape="square", ground=200)
    assert (picture.colour, picture.shape, picture.phrase) == (
        "orange",
        "square",
        "an orange square",
    )
    assert pixels(picture).getpixel((0, 0)) == (200, 200, 200)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", list(COLOURS))
def test_the_shape_is_large_and_stands_out(colour: str, shape: str) -> None:
    for seed in range(3):
        picture = draw_picture(seeded(seed), size=64, colour=colour, shape=shape)
        assert 0.06 < share_of_shape(pixels(picture), colour) < 0.6


def test_colours_stand_out_from_every_ground_and_from_each_other() -> None:
    for colour in COLOURS.values():
        for grey in GROUND:
            assert math.dist(colour, (grey, grey, grey)) > 90 + JITTER
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert math.dist(one, other) > 90


def test_a_pair_differs_in_colour_and_in_shape() -> None:
    rng = seeded(5)
    for _ in range(50):
        first, second = draw_pair(rng, size=32)
        assert first.colour != second.colour
        assert first.shape != second.shape


def test_the_encodings_hold_the_same_picture() -> None:
    picture = draw_picture(seeded(6), size=64)
    png, jpeg = picture.data_url(), picture.data_url(jpeg=True)
    assert png.startswith("data:image/png;base64,")
    assert base64.b64decode(png.partition(",")[2]) == picture.png
    assert jpeg.startswith("data:image/jpeg;base64,")
    decoded = Image.open(io.BytesIO(base64.b64decode(jpeg.partition(",")[2])))
    assert (decoded.format, decoded.size) == ("JPEG", (64, 64))
    difference = sum(
        abs(one - other)
        for one, other in zip(decoded.tobytes(), pixels(picture).tobytes(), strict=True)
    )
    assert difference / (64 * 64 * 3) < 5


def test_articles() -> None:
    assert phrase("red", "circle") == "a red circle"
    assert phrase("orange", "cross") == "an orange cross"


@pytest.mark.parametrize(
    "answer",
    [
        "a red circle",
        "A RED CIRCLE!",
        "The image shows a **red** **circle** on a grey background.",
        "Colour: red. Shape: circle.",
        "It is a round red dot.",
        "There are two red circles.",
        "A red circle on a square grey ground.",
    ],
)
def test_answers_that_name_a_red_circle(answer: str) -> None:
    assert names_picture(answer, shown("red", "circle"))


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "no image",
        "a red square",
        "a blue circle",
        "a reddish circle",
        "I am bored of circles",
        "a red semicircle",
        "red",
        "circle",
        "It may be a red, green or blue circle.",
        "a red circle, square or triangle",
    ],
)
def test_answers_that_do_not_name_a_red_circle(answer: str) -> None:
    assert not names_picture(answer, shown("red", "circle"))


@pytest.mark.parametrize("answer", ["a white plus sign", "white crosses", "White plus"])
def test_a_cross_may_be_called_a_plus(answer: str) -> None:
    assert names_picture(answer, shown("white", "cross"))


@pytest.mark.parametrize(
    "answer", ["white lines across the page", "white surplus", "acrosss", "white crossing"]
)
def test_words_that_hold_cross_or_plus_are_no_cross(answer: str) -> None:
    assert not names_picture(answer, shown("white", "cross"))


def test_purple_may_be_called_violet() -> None:
    assert names_picture("a violet triangle", shown("purple", "triangle"))
    assert not names_picture("an ultraviolet triangle", shown("purple", "triangle"))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("a red circle and a blue square", True),
        ("The first image shows a red circle. The second image shows a blue square.", True),
        ("1. Circle, red\n2. Square, blue", True),
        ("First: a red disc; second: a blue square, unlike the red one.", True),
        ("a blue square and a red circle", False),
        ("a red square and a blue circle", False),
        ("a blue circle and a red square", False),
        ("a red circle", False),
        ("a red circle and a blue triangle", False),
        ("a reddish circle and a blue square", False),
        ("a red circle and a bluesquare", False),
        ("", False),
    ],
)
def test_the_order_of_two_pictures(answer: str, *, right: bool) -> None:
    first, second = shown("red", "circle"), shown("blue", "square")
    assert names_in_order(answer, first, second) is right


def test_the_phrases_of_any_pair_are_in_order_and_not_the_other_way() -> None:
    rng = seeded(9)
    for _ in range(50):
        first, second = draw_pair(rng, size=32)
        answer = f"{first.phrase} and {second.phrase}"
        assert names_in_order(answer, first, second)
        assert not names_in_order(answer, second, first)


def test_importing_the_module_does_not_load_pillow() -> None:
    code = "import sys, hpcvlm.probe.pictures; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
