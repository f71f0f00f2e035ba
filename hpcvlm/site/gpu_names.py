"""What a site's names of GPUs and node features say: the product, its memory, a MIG slice.

Slurm's AutoDetect names a type after the driver's product name, in small letters with underscores
for spaces (https://slurm.schedmd.com/gres.html, AutoDetect): ``nvidia_a100_80gb_pcie``. Other sites
write ``A100``, ``a100_1g.5gb`` for a slice, or name none and tag the nodes with features.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

# Longer names first: h100 is no h10, l40s is no l40.
_PRODUCTS = (
    "gh200", "gb200", "gb300", "b300", "b200", "h800", "h200", "h100", "h20", "a800", "a100", "a40",
    "a30", "a16", "a10g", "a10", "a2", "l40s", "l40", "l20", "l4", "v100s", "v100", "p100", "p40",
    "t4", "k80", "mi355x", "mi350x", "mi325x", "mi300a", "mi300x", "mi300", "mi250x", "mi250",
    "mi210", "mi100",
)  # fmt: skip
_PRODUCT = re.compile(rf"(?<![a-z0-9])({'|'.join(_PRODUCTS)})(?![a-z0-9])")
_SLICE = re.compile(r"(?<![a-z0-9])(\d{1,2}g\.(\d{1,3})gb)(?![a-z0-9])")
_MEMORY = re.compile(r"(?<![a-z0-9.])(\d{1,3})gb?(?![a-z0-9.])")
_SIZE_ALONE = re.compile(r"\d{1,3}gb")
_TYPE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # as the schema's gpu_types
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_.-]")
_VENDOR = re.compile(r"^(?:nvidia|tesla|amd|instinct)[_-]")
# How the driver writes words that are not all capitals.
_WORDS = {
    "pcie": "PCIe", "geforce": "GeForce", "tesla": "Tesla", "quadro": "Quadro", "titan": "TITAN",
    "ti": "Ti", "super": "SUPER", "ada": "Ada", "generation": "Generation", "graphics": "Graphics",
    "device": "Device", "blackwell": "Blackwell", "server": "Server", "edition": "Edition",
    "workstation": "Workstation", "superchip": "Superchip",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GpuName:
    """What one of a site's names of a GPU says.

    Attributes:
        product: such as ``A100``; None where the name says none.
        memory: such as ``80G``; None where the name does not say it. A slice's own memory.
        slice: a MIG profile, such as ``1g.5gb``; None for a whole GPU.
        hardware: the driver's name, where the site's is made from it.
    """

    product: str | None = None
    memory: str | None = None
    slice: str | None = None
    hardware: str | None = None


def read_name(text: str) -> GpuName:
    """What a GPU type, or a node feature, says of the GPU."""
    word = text.lower()
    part = _SLICE.search(word)
    rest = word.replace(part[1], "") if part else word
    # An underscore is a word's end to people, not to a regular expression's own word.
    product = _PRODUCT.search(rest.replace("_", "-"))
    size = _MEMORY.search(rest.replace("_", "-"))
    memory = f"{part[2]}G" if part else (f"{size[1]}G" if size else None)
    return GpuName(
        product=product[1].upper() if product else None,
        memory=memory,
        slice=part[1] if part else None,
        hardware=_hardware(word) if part is None else None,
    )


def is_type_name(text: str) -> bool:
    """Whether a site file can hold a type of this name."""
    return _TYPE_NAME.fullmatch(text) is not None


def site_names(types: Iterable[str]) -> dict[str, str]:
    """A short name for users to type, for each of Slurm's types; no two types share one.

    ``nvidia_a100-sxm4-80gb`` becomes A100; where there is another A100, A100-80. Slices become
    A100-1g.5gb. A name that says no product is kept, without its maker.
    """
    given = list(dict.fromkeys(types))
    for form in (_short, _with_memory, _bare):
        counts: dict[str, int] = {}
        for kind in given:
            counts[form(kind).lower()] = counts.get(form(kind).lower(), 0) + 1
        if all(count == 1 for count in counts.values()):
            return {kind: form(kind) for kind in given}
    return {kind: f"{_bare(kind)}-{number}" for number, kind in enumerate(given, start=1)}


def feature_for(features: Iterable[str]) -> str | None:
    """The feature that names a node's GPUs: the plainest of those that say a product."""
    told = [feature for feature in features if read_name(feature).product]
    return min(told, key=lambda feature: (len(feature), feature)) if told else None


def size_feature(nodes: Iterable[Iterable[str]]) -> str | None:
    """The feature that is nothing but a size, such as ``40gb``, and the same on all nodes.

    Sites mean the GPUs' memory by it, or the node's own; so it is a hint, and no fact.
    """
    sizes = [
        {name for name in features if _SIZE_ALONE.fullmatch(name.lower())} for features in nodes
    ]
    same = set.intersection(*sizes) if sizes else set()
    return same.pop() if len(same) == 1 else None


def _short(kind: str) -> str:
    name = read_name(kind)
    if name.product is None:
        return _bare(kind)
    return f"{name.product}-{name.slice}" if name.slice else name.product


def _with_memory(kind: str) -> str:
    name = read_name(kind)
    if name.product is None or name.slice or name.memory is None:
        return _short(kind)
    return f"{name.product}-{name.memory.removesuffix('G')}"


def _bare(kind: str) -> str:
    """The name without its maker, and without what no type's name may have."""
    return _UNNAMEABLE.sub("-", _VENDOR.sub("", kind)).lstrip("._-") or "GPU"


def _hardware(word: str) -> str | None:
    """The driver's product name; None where the site's name is not made from one."""
    if not word.startswith(("nvidia_", "tesla_", "amd_")):
        return None
    words = re.split(r"_", word)
    return " ".join("-".join(_cased(part) for part in item.split("-")) for item in words)


def _cased(word: str) -> str:
    return _WORDS.get(word, word.upper())
