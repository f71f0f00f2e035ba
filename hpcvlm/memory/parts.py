"""Reading parts of a config.json: numbers with their defaults, and a note of what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcvlm.memory.config_defaults import TEXT, TEXT_OF, VISION, VISION_OF

_TEXT_KEYS = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Part:
    """One section of a config, over the defaults of its class.

    Attributes:
        name: where it stands, for messages: ``text_config`` or empty at top level.
        data: what stands there.
        defaults: what its class knows.
        missing: filled with the keys that were asked for and are nowhere.
        above: `model_type` of the whole config.
    """

    name: str
    data: Mapping[str, object]
    defaults: Mapping[str, object] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    above: object = None

    @property
    def type(self) -> str:
        """Its `model_type`, or an empty word."""
        found = self.data.get("model_type")
        return found if isinstance(found, str) else ""

    def get(self, *keys: str) -> object:
        """The first of these keys that has a value, then that of the defaults.

        A key that stands there as null has no default: so DeepSeek-VL2's small models say that
        they have no compressed vectors.
        """
        found = next((self.data[key] for key in keys if self.data.get(key) is not None), None)
        if found is not None or any(key in self.data for key in keys):
            return found
        return next((self.defaults[key] for key in keys if key in self.defaults), None)

    def number(self, *keys: str) -> int | None:
        """A whole number, or None; of a list the largest (some classes have one per layer)."""
        found = self.get(*keys)
        if isinstance(found, bool):
            return None
        if isinstance(found, (list, tuple)):
            numbers = [one for one in found if isinstance(one, int)]
            return max(numbers, default=None)
        return int(found) if isinstance(found, (int, float)) else None

    def needed(self, *keys: str) -> int | None:
        """As `number`, noting the first key as missing where there is none."""
        found = self.number(*keys)
        if found is None:
            self.missing.append(f"{self.name}.{keys[0]}" if self.name else keys[0])
        return found

    def ratio(self, key: str) -> float | None:
        """A number that need not be whole."""
        found = self.get(key)
        return float(found) if isinstance(found, (int, float)) else None

    def words(self, key: str) -> list[str]:
        """A list of words, empty when it is not one."""
        found = self.data.get(key)
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers, empty when it is not one."""
        found = self.get(key)
        return [one for one in found if isinstance(one, int)] if isinstance(found, list) else []


def text_part(config: Mapping[str, object], missing: list[str]) -> Part:
    """The language model's section: nested, or the top level itself.

    Qwen-Omni's lies two levels down, in ``thinker_config.text_config``.
    """
    thinker = config.get("thinker_config")
    top: Mapping[str, object] = thinker if isinstance(thinker, dict) else config
    kind = top.get("model_type")
    for key in _TEXT_KEYS:
        found = top.get(key)
        if isinstance(found, dict):
            own = found.get("model_type") or TEXT_OF.get(str(kind), "")
            return Part(key, found, TEXT.get(str(own), {}), missing, kind)
    own = TEXT_OF.get(str(kind), str(kind))
    # A model with pictures whose section was left out altogether is not its class's default.
    known = "hidden_size" in top
    return Part("", top, TEXT.get(own, {}) if known else {}, missing, kind)


def vision_part(config: Mapping[str, object], missing: list[str]) -> Part | None:
    """The vision encoder's section, or None."""
    thinker = config.get("thinker_config")
    top: Mapping[str, object] = thinker if isinstance(thinker, dict) else config
    found = top.get("vision_config")
    if not isinstance(found, dict):
        return None
    kind = str(top.get("model_type"))
    own = str(found.get("model_type") or VISION_OF.get(kind, kind))
    return Part("vision_config", found, VISION.get(own, VISION.get(kind, {})), missing)


def sequence(value: object) -> Sequence[object]:
    """The value when it is a list, else an empty one."""
    return value if isinstance(value, (list, tuple)) else ()
