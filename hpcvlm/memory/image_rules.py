"""Which rule turns a model's pictures into tokens, and the numbers that the rule needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hpcvlm.memory.parts import Part, sequence, vision_part
from hpcvlm.memory.shapes import ImageRule

# max_pixels of the preprocessor_config.json in Qwen's repositories (Qwen2-VL, Qwen2.5-VL:
# 12845056 = 16384 tokens of 28 x 28; Qwen3-VL: 16777216 = 16384 of 32 x 32).
_QWEN2_PIXELS = 12_845_056
_QWEN3_PIXELS = 16_777_216
_INTERNVL_TILES = 12

_Settings = Mapping[str, object]


def read_rule(config: _Settings, preprocessor: _Settings) -> ImageRule | None:
    """The rule of a model, or None where it is not known or the model takes no pictures.

    Args:
        config: the parsed config.json.
        preprocessor: the parsed preprocessor_config.json; without it the numbers are those that
            the model family's repositories ship.
    """
    kind = str(config.get("model_type"))
    found = _READERS.get(kind) or _READERS.get(kind.removesuffix("_moe"))
    if found is None:
        return None
    vision = vision_part(config, [])
    part = vision or Part("", config)
    return found(config, part, preprocessor)


def _grid(
    default_pixels: int, *, videos: bool = False
) -> Callable[[_Settings, Part, _Settings], ImageRule]:
    """One token for a square of patches: Qwen, GLM-4.xV.

    With `videos`, memory for one is reserved by the rule of `images.video_tokens`.
    """

    def read(_config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule:
        patch = part.number("patch_size", "spatial_patch_size") or 14
        merge = part.number("spatial_merge_size") or 2
        size = preprocessor.get("size")
        sizes = Part("", size if isinstance(size, dict) else {})
        top = Part("", preprocessor)
        most = top.number("max_pixels") or sizes.number("longest_edge", "max_pixels")
        least = top.number("min_pixels") or sizes.number("shortest_edge", "min_pixels")
        return ImageRule(
            name="grid",
            numbers={
                "patch": patch,
                "merge": merge,
                "max_pixels": most or default_pixels,
                "min_pixels": least or 4 * (patch * merge) ** 2,
                "videos": int(videos),
            },
        )

    return read


def _glm(config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule | None:
    """Glm4vImageProcessor: its size counts two frames, a picture being doubled to a pair."""
    if not preprocessor.get("size"):
        return None
    rule = _grid(0)(config, part, preprocessor)
    halved = rule.numbers["max_pixels"] // 2
    return ImageRule(name="grid", numbers={**rule.numbers, "max_pixels": halved})


def _fixed(config: _Settings, part: Part, _preprocessor: _Settings) -> ImageRule | None:
    """All pictures alike: LLaVA 1.5, PaliGemma; Pixtral in this class has its own rule."""
    if part.type == "pixtral":
        return _pixtral(config, part, _preprocessor)
    side, patch = part.number("image_size"), part.number("patch_size")
    if side is None or patch is None:
        return None
    whole = config.get("vision_feature_select_strategy") == "full"
    extra = 1 if whole and "clip" in part.type else 0
    return ImageRule(name="fixed", numbers={"tokens": (side // patch) ** 2 + extra})


def _gemma3(config: _Settings, part: Part, _preprocessor: _Settings) -> ImageRule | None:
    tokens = Part("", config).number("mm_tokens_per_image") or 256
    side, patch = part.number("image_size") or 896, part.number("patch_size") or 14
    return ImageRule(
        name="gemma3", numbers={"tokens": tokens, "patches": (side // patch) ** 2, "crops": 4}
    )


def _gemma4(_config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule:
    tokens = Part("", preprocessor).number("max_soft_tokens", "image_seq_length") or 280
    pooling = part.number("pooling_kernel_size") or 3
    return ImageRule(name="gemma4", numbers={"tokens": tokens, "pooling": pooling})


def _tiles(config: _Settings, part: Part, _preprocessor: _Settings) -> ImageRule | None:
    """InternVL: tiles of 256 tokens, and a thumbnail where there is more than one."""
    top = Part("", config)
    side = top.number("force_image_size") or part.number("image_size")
    patch = part.number("patch_size")
    if side is None or patch is None:
        return None
    shrink = top.ratio("downsample_ratio") or 0.5
    per_tile = int((side // patch) ** 2 * shrink**2)
    # InternVLProcessor of the -hf repositories: max_patches of the preprocessor, 12 as well.
    most = top.number("max_dynamic_patch") or _INTERNVL_TILES
    return ImageRule(
        name="tiles",
        numbers={
            "per_tile": per_tile,
            "patches": (side // patch) ** 2,
            "tiles": most,
            "side": side,
            "thumbnail": int(config.get("use_thumbnail") is not False),
        },
    )


def _llama4(_config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule | None:
    side, patch = part.number("image_size"), part.number("patch_size")
    ratio = part.ratio("pixel_shuffle_ratio")
    if side is None or patch is None or ratio is None:
        return None
    per_tile = (side // patch) ** 2 // round(1 / ratio**2)
    tiles = Part("", preprocessor).number("max_patches") or 16
    numbers = {"per_tile": per_tile, "patches": (side // patch) ** 2, "tiles": tiles, "side": side}
    return ImageRule(name="tiles", numbers={**numbers, "thumbnail": 1})


def _mllama(_config: _Settings, part: Part, _preprocessor: _Settings) -> ImageRule | None:
    side, patch = part.number("image_size"), part.number("patch_size")
    if side is None or patch is None:
        return None
    return ImageRule(
        name="cross",
        numbers={
            "per_tile": (side // patch) ** 2 + 1,
            "tiles": part.number("max_num_tiles") or 4,
            "side": side,
        },
    )


def _pixtral(config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule | None:
    """One token for each square of 16 (Pixtral) or 28 (Mistral 3) pixels, and one a row."""
    size = preprocessor.get("size")
    sizes = Part("", size if isinstance(size, dict) else {})
    side = sizes.number("longest_edge") or part.number("max_image_size", "image_size")
    patch = part.number("patch_size")
    merge = Part("", config).number("spatial_merge_size") or part.number("spatial_merge_size") or 1
    if side is None or patch is None:
        return None
    return ImageRule(name="rows", numbers={"side": side, "patch": patch, "merge": merge})


def _anyres(name: str) -> Callable[[_Settings, Part, _Settings], ImageRule | None]:
    """LLaVA-NeXT and LLaVA-OneVision: tiles of the best-fitting grid, and the whole picture."""

    def read(config: _Settings, part: Part, _preprocessor: _Settings) -> ImageRule | None:
        side, patch = part.number("image_size"), part.number("patch_size")
        points = tuple(
            (int(point[0]), int(point[1]))
            for point in sequence(config.get("image_grid_pinpoints"))
            if isinstance(point, (list, tuple)) and len(point) == 2  # noqa: PLR2004
        )
        if side is None or patch is None or not points:
            return None
        return ImageRule(name=name, numbers={"side": side, "patch": patch}, pinpoints=points)

    return read


def _idefics3(config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule | None:
    """Tiles of the encoder's side, and the whole picture shrunk."""
    side, patch = part.number("image_size"), part.number("patch_size")
    scale = Part("", config).number("scale_factor") or 2
    size, tile = preprocessor.get("size"), preprocessor.get("max_image_size")
    longest = Part("", size if isinstance(size, dict) else {}).number("longest_edge")
    own = Part("", tile if isinstance(tile, dict) else {}).number("longest_edge") or side
    if side is None or patch is None or longest is None or own is None:
        return None
    per_tile = (side // patch) ** 2 // scale**2
    return ImageRule(
        name="split",
        numbers={
            "per_tile": per_tile,
            "patches": (side // patch) ** 2,
            "side": own,
            "longest": longest,
        },
    )


def _phi3(_config: _Settings, _part: Part, preprocessor: _Settings) -> ImageRule:
    """Phi-3.5-vision: its preprocessor's num_crops is 4; its card takes 16 for one picture."""
    crops = Part("", preprocessor).number("num_crops") or 4
    return ImageRule(name="phi3", numbers={"crops": crops})


def _minicpm(config: _Settings, _part: Part, _preprocessor: _Settings) -> ImageRule:
    top = Part("", config)
    slices = config.get("slice_config")
    most = Part("", slices if isinstance(slices, dict) else {}).number("max_slice_nums") or 9
    query = top.number("query_num") or 64
    numbers = {"per_tile": query, "patches": 1024, "tiles": most, "side": 448, "thumbnail": 1}
    return ImageRule(name="tiles", numbers=numbers)


def _kimi(_config: _Settings, part: Part, preprocessor: _Settings) -> ImageRule | None:
    """Kimi-VL: as many patches as in_token_limit, four to a token."""
    limit = Part("", preprocessor).number("in_token_limit") or 4096
    return ImageRule(
        name="native", numbers={"patch": part.number("patch_size") or 14, "limit": limit}
    )


_READERS: Mapping[str, Callable[[_Settings, Part, _Settings], ImageRule | None]] = {
    "qwen2_vl": _grid(_QWEN2_PIXELS, videos=True),
    "qwen2_5_vl": _grid(_QWEN2_PIXELS, videos=True),
    "qwen3_vl": _grid(_QWEN3_PIXELS),
    "qwen3_5": _grid(_QWEN3_PIXELS),
    "glm4v": _glm,
    "llava": _fixed,
    "paligemma": _fixed,
    "llava_next": _anyres("anyres"),
    "llava_onevision": _anyres("anyres9"),
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "gemma4_unified": _gemma4,
    "internvl_chat": _tiles,
    "internvl": _tiles,
    "llama4": _llama4,
    "mllama": _mllama,
    "pixtral": _pixtral,
    "mistral3": _pixtral,
    "idefics3": _idefics3,
    "smolvlm": _idefics3,
    "phi3_v": _phi3,
    "minicpmv": _minicpm,
    "kimi_vl": _kimi,
}
