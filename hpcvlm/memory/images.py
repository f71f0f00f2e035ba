"""How many tokens a picture becomes.

Each rule follows vLLM's own class: vllm/model_executor/models, `get_num_image_tokens` and
`get_image_size_with_most_features` of 0.32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from hpcvlm.memory.shapes import ImageRule

_HUGE = 9_999_999


@dataclass(frozen=True, slots=True, repr=False)
class ImageTokens:
    """What one picture costs.

    Attributes:
        tokens: in the encoder's output, each taking a place in the prompt and the encoder cache.
        patches: that go through the encoder.
    """

    tokens: int
    patches: int


def most_tokens(rule: ImageRule, processor: Mapping[str, object] | None = None) -> ImageTokens:
    """What the costliest picture becomes: it is what vLLM reserves memory for.

    Args:
        rule: the model's.
        processor: vLLM's --mm-processor-kwargs, which lower it: `max_pixels`,
            `max_dynamic_patch`, `num_crops`, `max_soft_tokens`, `do_pan_and_scan`, `size`.
    """
    numbers = tuple(sorted(_numbers(processor).items()))
    return _most(rule.name, tuple(sorted(rule.numbers.items())), rule.pinpoints, numbers)


@cache
def _most(
    name: str,
    numbers: tuple[tuple[str, int], ...],
    pinpoints: tuple[tuple[int, int], ...],
    settings: tuple[tuple[str, int], ...],
) -> ImageTokens:
    """An estimate asks for the same model's costliest picture once for each length it tries."""
    rule = ImageRule(name=name, numbers=dict(numbers), pinpoints=pinpoints)
    return RULES[name](rule, None, dict(settings))


def tokens_of(
    rule: ImageRule, width: int, height: int, processor: Mapping[str, object] | None = None
) -> ImageTokens:
    """What a picture of that many pixels becomes."""
    return RULES[rule.name](rule, (width, height), _numbers(processor))


def video_tokens(
    rule: ImageRule,
    max_model_len: int,
    most_frames: int,
    processor: Mapping[str, object] | None = None,
) -> ImageTokens | None:
    """What vLLM reserves for one video of Qwen2-VL and Qwen2.5-VL, the costliest modality there.

    Frames of the largest size, in pairs, as many as `max_model_len` holds, `most_frames` at most.

    Args:
        rule: the model's.
        max_model_len: as the engine takes it.
        most_frames: `EngineRules.video_frames`.
        processor: ``--mm-processor-kwargs``.

    Source: vllm/model_executor/models/qwen2_vl.py, get_num_frames_with_most_features.

    Returns:
        None for other models. Qwen3-VL's processor gives a video 384 tokens unless its repository
        says otherwise, which is less than a picture's 16384; those of others are not counted.
    """
    if not rule.numbers.get("videos"):
        return None
    one = most_tokens(rule, processor)
    frames = 1
    while frames < most_frames and math.ceil((frames + 1) / 2) * one.tokens <= max_model_len:
        frames += 1
    pairs = math.ceil(frames / 2)
    return ImageTokens(pairs * one.tokens, pairs * one.patches)


_Size = tuple[int, int] | None
_Numbers = Mapping[str, int]


def _numbers(processor: Mapping[str, object] | None) -> dict[str, int]:
    """The settings that are whole numbers; ``size`` and ``images_kwargs`` are opened."""
    found: dict[str, int] = {}
    for key, value in (processor or {}).items():
        if isinstance(value, dict) and key in {"size", "images_kwargs"}:
            found.update(_numbers(value))
        elif isinstance(value, (int, float)):
            found[key] = int(value)
    return found


def _grid(rule: ImageRule, size: _Size, settings: _Numbers) -> ImageTokens:
    """smart_resize of transformers' Qwen2VLImageProcessor."""
    numbers = rule.numbers
    factor = numbers["patch"] * numbers["merge"]
    most = settings.get("max_pixels") or settings.get("longest_edge") or numbers["max_pixels"]
    least = settings.get("min_pixels") or settings.get("shortest_edge") or numbers["min_pixels"]
    width, height = size or (_HUGE, _HUGE)
    wide, high = (max(factor, round(side / factor) * factor) for side in (width, height))
    if wide * high > most:
        beta = math.sqrt(width * height / most)
        wide, high = (
            max(factor, math.floor(side / beta / factor) * factor) for side in (width, height)
        )
    elif wide * high < least:
        beta = math.sqrt(least / (width * height))
        wide, high = (math.ceil(side * beta / factor) * factor for side in (width, height))
    tokens = (wide // factor) * (high // factor)
    return ImageTokens(tokens, tokens * numbers["merge"] ** 2)


def _fixed(rule: ImageRule, _size: _Size, _settings: _Numbers) -> ImageTokens:
    return ImageTokens(rule.numbers["tokens"], rule.numbers["tokens"])


def _gemma3(rule: ImageRule, size: _Size, settings: _Numbers) -> ImageTokens:
    """The picture, and with do_pan_and_scan up to four crops of an elongated one."""
    crops = 0
    if settings.get("do_pan_and_scan") and size is None:
        crops = settings.get("pan_and_scan_max_num_crops") or rule.numbers["crops"]
    views = 1 + crops
    return ImageTokens(views * rule.numbers["tokens"], views * rule.numbers["patches"])


def _gemma4(rule: ImageRule, _size: _Size, settings: _Numbers) -> ImageTokens:
    tokens = settings.get("max_soft_tokens") or rule.numbers["tokens"]
    return ImageTokens(tokens, tokens * rule.numbers["pooling"] ** 2)


def _tiles(rule: ImageRule, size: _Size, settings: _Numbers) -> ImageTokens:
    numbers = rule.numbers
    names = ("max_dynamic_patch", "max_patches", "max_slice_nums")
    most = next((settings[name] for name in names if settings.get(name)), numbers["tiles"])
    tiles = most if size is None else _best_tiles(size, most, numbers["side"])
    views = tiles + (numbers["thumbnail"] if tiles > 1 else 0)
    return ImageTokens(views * numbers["per_tile"], views * numbers["patches"])


def _best_tiles(size: tuple[int, int], most: int, side: int) -> int:
    """InternVL's find_closest_aspect_ratio: the grid nearest in shape, the larger of equals."""
    width, height = size
    grids = sorted(
        {(i, j) for i in range(1, most + 1) for j in range(1, most + 1) if i * j <= most},
        key=lambda grid: grid[0] * grid[1],
    )
    best, nearest = (1, 1), math.inf
    for columns, rows in grids:
        away = abs(width / height - columns / rows)
        large = width * height > 0.5 * side * side * columns * rows
        if away < nearest or (away == nearest and large):
            best, nearest = (columns, rows), away
    return best[0] * best[1]


def _cross(rule: ImageRule, _size: _Size, _settings: _Numbers) -> ImageTokens:
    """Mllama: the tiles' tokens go to the cross-attention layers, not to the prompt."""
    tokens = rule.numbers["per_tile"] * rule.numbers["tiles"]
    return ImageTokens(tokens, tokens)


def _rows(rule: ImageRule, size: _Size, settings: _Numbers) -> ImageTokens:
    """Pixtral: shrunk to its longest side; the breaks of rows are in the prompt only."""
    numbers = rule.numbers
    side = settings.get("longest_edge") or numbers["side"]
    square = numbers["patch"] * numbers["merge"]
    width, height = size or (side, side)
    ratio = max(width / side, height / side)
    if ratio > 1:
        width, height = math.floor(width / ratio), math.floor(height / ratio)
    tokens = math.ceil(width / square) * math.ceil(height / square)
    return ImageTokens(tokens, tokens * numbers["merge"] ** 2)


def _anyres(rule: ImageRule, size: _Size, _settings: _Numbers) -> ImageTokens:
    sizes = [size] if size else [(width, height) for height, width in rule.pinpoints]
    return max((_of_grid(rule, *one, limit=None) for one in sizes), key=lambda found: found.tokens)


def _anyres9(rule: ImageRule, size: _Size, _settings: _Numbers) -> ImageTokens:
    sizes = [size] if size else [(width, height) for height, width in rule.pinpoints]
    return max((_of_grid(rule, *one, limit=9) for one in sizes), key=lambda found: found.tokens)


def _of_grid(rule: ImageRule, width: int, height: int, limit: int | None) -> ImageTokens:
    """The unpadded part of the tiles, one token a row, and the whole picture."""
    side, length = rule.numbers["side"], rule.numbers["side"] // rule.numbers["patch"]
    rows, columns = _best_pinpoint(rule, width, height)
    high, wide = length * (rows // side), length * (columns // side)
    views = 1 + (rows // side) * (columns // side)
    if width / height > wide / high:
        high -= 2 * ((high - int(round(height * (wide / width), 7))) // 2)
    else:
        wide -= 2 * ((wide - int(round(width * (high / height), 7))) // 2)
    unpadded, newlines = high * wide, high
    ratio = math.sqrt(high * wide / (limit * length**2)) if limit else 0.0
    if ratio > 1.1:  # noqa: PLR2004 - of LLaVA-OneVision
        unpadded, newlines = int(high // ratio) * int(wide // ratio), int(high // ratio)
    return ImageTokens(unpadded + newlines + length**2, views * length**2)


def _best_pinpoint(rule: ImageRule, width: int, height: int) -> tuple[int, int]:
    """The select_best_resolution of transformers: most of the picture kept, then least wasted."""

    def fit(point: tuple[int, int]) -> tuple[int, int]:
        rows, columns = point
        scale = min(columns / width, rows / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, -(rows * columns - kept)

    return max(rule.pinpoints, key=fit)


def _split(rule: ImageRule, size: _Size, settings: _Numbers) -> ImageTokens:
    """Idefics3: enlarged to its longest side, cut into tiles, and the whole beside them."""
    numbers = rule.numbers
    longest = settings.get("longest_edge") or numbers["longest"]
    width, height = size or (longest, longest)
    # Rounded: the longest side is exactly `longest`, whatever the division left.
    wide, high = (
        math.ceil(round(side * longest / max(width, height), 6) / numbers["side"])
        for side in (width, height)
    )
    tiles = wide * high
    views = tiles + 1 if tiles > 1 else 1
    return ImageTokens(views * numbers["per_tile"], views * numbers["patches"])


def _phi3(rule: ImageRule, _size: _Size, settings: _Numbers) -> ImageTokens:
    """The formula of Phi3ImageProcessor, for the grid that gives most: crops in a square."""
    crops = settings.get("num_crops") or rule.numbers["crops"]
    most = max(
        ((rows * (crops // rows) + 1) * 144 + 1 + (rows + 1) * 12, rows * (crops // rows))
        for rows in range(1, crops + 1)
        if rows <= crops // rows
    )
    return ImageTokens(most[0], (most[1] + 1) * 576)


def _native(rule: ImageRule, size: _Size, _settings: _Numbers) -> ImageTokens:
    numbers = rule.numbers
    patches = numbers["limit"]
    if size is not None:
        width, height = size
        patches = min(patches, (width // numbers["patch"]) * (height // numbers["patch"]))
    return ImageTokens(math.ceil(patches / 4), patches)


RULES: Mapping[str, Callable[[ImageRule, _Size, _Numbers], ImageTokens]] = {
    "grid": _grid,
    "fixed": _fixed,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "tiles": _tiles,
    "cross": _cross,
    "rows": _rows,
    "anyres": _anyres,
    "anyres9": _anyres9,
    "split": _split,
    "phi3": _phi3,
    "native": _native,
}
