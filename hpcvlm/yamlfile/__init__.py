"""Files that people write: YAML text to a checked value, with the line of every mistake."""

from hpcvlm.yamlfile.check import validate

__all__ = ["validate"]
