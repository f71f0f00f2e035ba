"""Variants: other weights of one model, written inside its file and laid over the rest of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from hpcvlm.errors import HpcvlmError
from hpcvlm.yamlfile.layers import Part

SEPARATOR = ":"
_KEY = "variants"
_OF_FILES = ("weight_bytes", "precision")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class VariantPart(Part):
    """What one variant contributes; its keys stand deeper in the file than they apply."""

    variant: str = ""

    def where(self, key: tuple[str | int, ...]) -> str:
        """``file:line`` of a key, below its variant."""
        return Part.where(self, (_KEY, self.variant, *key))


def split_name(name: str) -> tuple[str, str | None]:
    """``model:variant`` as two; no variant where there is no colon."""
    model, colon, variant = name.partition(SEPARATOR)
    return model, variant if colon else None


def full_name(model: str, variant: str | None) -> str:
    """What `split_name` takes apart."""
    return model if variant is None else f"{model}{SEPARATOR}{variant}"


def variants_of(data: Mapping[str, object]) -> dict[str, Mapping[str, object]]:
    """The variants in a file's data that are keys with values; unchecked."""
    variants = data.get(_KEY)
    if not isinstance(variants, Mapping):
        return {}
    return {
        str(name): variant for name, variant in variants.items() if isinstance(variant, Mapping)
    }


def names_of(data: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """(name, variant) for every further name in a file's data: aliases and repositories.

    The model's own repository and aliases come with no variant. A variant whose repository is
    the model's own is not named by it.
    """
    own = set(_names(data))
    for name in sorted(own):
        yield name, None
    for variant, part in variants_of(data).items():
        for name in sorted(set(_names(part)) - own):
            yield name, variant


def with_variant(parts: Iterable[Part], variant: str, model: str) -> list[Part]:
    """The parts, and what each says of the variant laid over all of them.

    Raises:
        HpcvlmError: ``variant-unknown``.
    """
    below = list(parts)
    known: dict[str, None] = {}
    over: list[Part] = []
    for part in below:
        variants = variants_of(part.data)
        known.update(dict.fromkeys(variants))
        if variant in variants:
            data = _own(variants[variant])
            over.append(VariantPart(part.source, part.path, data, part.text, variant))
    if over:
        return [*below, *over]
    raise _unknown(variant, model, known)


def _own(variant: Mapping[str, object]) -> dict[str, object]:
    """What a variant replaces: with a repository of its own, also what is true of files alone."""
    of_files = dict.fromkeys(_OF_FILES) if "snapshot" in variant else {}
    # Its further names are those of the variant alone.
    return {**of_files, **{key: value for key, value in variant.items() if key != "aliases"}}


def _unknown(variant: str, model: str, known: Mapping[str, object]) -> HpcvlmError:
    if not known:
        return HpcvlmError(
            "variant-unknown", f"{model} has no variants", f"leave out {SEPARATOR}{variant}"
        )
    near = get_close_matches(variant, known, n=1, cutoff=0.4)
    hint = f"; did you mean {full_name(model, near[0])}?" if near else ""
    return HpcvlmError(
        "variant-unknown",
        f"{model} has no variant {variant!r}{hint}",
        f"one of {', '.join(full_name(model, name) for name in known)}",
    )


def _names(data: Mapping[str, object]) -> Iterator[str]:
    aliases = data.get("aliases")
    if isinstance(aliases, list):
        yield from (alias for alias in aliases if isinstance(alias, str))
    snapshot = data.get("snapshot")
    if isinstance(snapshot, Mapping) and isinstance(snapshot.get("repo"), str):
        yield str(snapshot["repo"])
