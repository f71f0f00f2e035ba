"""The JSON Schemas of the files that people write, by kind of file."""

from __future__ import annotations

from typing import Any, Literal

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile.json_schema import schema_of

Kind = Literal["model", "site"]


def json_schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of model files or of site files."""
    if kind == "model":
        return schema_of(ModelSpec, "hpcvlm model file")
    return schema_of(SiteSpec, "hpcvlm site file")
