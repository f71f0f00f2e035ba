"""The shipped files, the JSON Schemas and the reference pages made from them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from hpcvlm.catalog.json_schema import Kind, json_schema
from hpcvlm.catalog.load import Layer, TextFolder, all_models, find_model
from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.site.schema import SiteSpec
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.schema import Section

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs" / "models").glob("*.yaml"))
SECTIONS: dict[Kind, type[Section]] = {"model": ModelSpec, "site": SiteSpec}


@pytest.fixture(scope="module")
def layer() -> Layer:
    return Layer("shipped", TextFolder({f.name: f.read_text(encoding="utf-8") for f in FILES}))


def test_the_shipped_models_are_all_there(layer: Layer) -> None:
    names = [resolved.spec.name for resolved in all_models([layer])]
    assert names == sorted(file.stem for file in FILES)
    assert {"llama-3.2-11b-vision", "qwen2.5-vl-7b", "tiny-vlm"} <= set(names)


def test_every_name_of_every_model_leads_to_it_alone(layer: Layer) -> None:
    for resolved in all_models([layer]):
        spec = resolved.spec
        for name in (spec.name, *spec.aliases, spec.snapshot.repo):
            assert find_model(name, [layer]).spec == spec


# The only ones without eyes: they are in the catalog because people ask for them by name.
TEXT_ONLY = ("llama-3.1-", "mistral-7b", "mixtral-")
# Nobody has read their model cards for this catalog yet; what is unknown is left out.
LICENCE_UNKNOWN = {
    "deepseek-ocr-2",
    "glm-4.1v-9b",
    "internvl3-78b",
    "minicpm-v-4.6",
    "nemotron-nano-12b-v2-vl",
    "qwen3.8-27b",
}


def test_every_shipped_model_can_see_and_is_described(layer: Layer) -> None:
    for resolved in all_models([layer]):
        spec = resolved.spec
        assert spec.description
        if spec.unsupported is not None:
            continue
        assert spec.vision != spec.name.startswith(TEXT_ONLY), spec.name
        assert bool(spec.licence) != (spec.name in LICENCE_UNKNOWN), spec.name
        assert spec.parallelism.gpus["default"] >= 1
        if spec.engine.preferred:
            assert spec.engine.preferred in SpecifierSet(spec.engine.versions)


def test_llama_as_its_job_script_has_it(layer: Layer) -> None:
    spec = find_model("neuralmagic/Llama-3.2-11B-Vision-Instruct-quantized.w4a16", [layer]).spec
    assert spec.name == "llama-3.2-11b-vision"
    assert spec.snapshot.revision == "7f66874ab1a17131069ffede32f5efaad2cb80b5"
    assert (spec.engine.versions, spec.engine.preferred) == (">=0.9.1,<=0.10.2", "0.10.2")
    assert "27198" in spec.engine.reason
    assert spec.multimodal.limit_per_prompt == {"image": 2, "video": 1}
    assert spec.parallelism.attention_heads == 32
    assert spec.options == {
        "max-model-len": 10000,
        "max-num-seqs": 16,
        "enforce-eager": True,
        "gpu-memory-utilization": 0.5,
        "enable-auto-tool-choice": True,
        "tool-call-parser": "llama3_json",
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_model_file_obeys_its_json_schema(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text(encoding="utf-8")), json_schema("model"))


def test_the_example_site_obeys_its_json_schema() -> None:
    text = (ROOT / "configs" / "sites" / "example.yaml").read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), json_schema("site"))


@pytest.mark.parametrize("kind", ["model", "site"])
def test_a_json_schema_is_one(kind: Kind) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == f"hpcvlm {kind} file"
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, key in schema["properties"].items():
        assert key["description"], name


SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, "", "x", "a/b", "vllm", "0.10.2", "/a:/b:ro", "image", "--nv", "60G"])
)
NAMES = st.sampled_from(
    [
        "name", "schema", "snapshot", "repo", "revision", "engine", "versions", "preferred",
        "options", "environment", "parallelism", "gpus", "attention_heads", "aliases", "gated",
        "multimodal", "limit_per_prompt", "image", "processor", "served_name", "engines",
        "version", "command", "binds", "sbatch", "runtime", "gpu_flag", "cpus_per_gpu", "modules",
        "mail-type", "--x", "9", "memory_per_gpu", "listen", "nonsense",
    ]
)  # fmt: skip
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)
# Rules that a JSON Schema cannot say: they read the text itself.
BEYOND = ("a range of versions", "a version such as", "a duration such as")


@pytest.mark.parametrize("kind", ["model", "site"])
@given(tree=st.dictionaries(NAMES, TREES, max_size=6))
@settings(deadline=None, max_examples=300)
def test_the_json_schema_and_the_check_agree(kind: Kind, tree: dict[str, Any]) -> None:
    """Two readers of one schema, one of them not ours, say the same of any data."""
    if kind == "model":
        tree = {"name": "m", "snapshot": {"repo": "a/b"}, **tree}
    try:
        validate(SECTIONS[kind], json.dumps(tree), "f.yaml")
        problems: tuple[str, ...] = ()
    except HpcvlmError as error:
        problems = error.details or (error.sentence,)
    ours = [p for p in problems if not any(beyond in p for beyond in BEYOND)]
    if jsonschema.Draft202012Validator(json_schema(kind)).is_valid(tree):
        assert ours == []
    else:
        assert problems


def generator() -> ModuleType:
    path = ROOT / "scripts" / "generate_reference.py"
    spec = importlib.util.spec_from_file_location("generate_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_pages_are_up_to_date() -> None:
    assert generator().outdated(ROOT) == [], "run python scripts/generate_reference.py"


def test_the_reference_names_every_key(tmp_path: Path) -> None:
    made = generator().write(tmp_path)
    assert "docs/reference/model-file.md" in made
    page = (tmp_path / "docs/reference/site-file.md").read_text(encoding="utf-8")
    for key in json_schema("site")["properties"]:
        assert f"| `{key}` |" in page
    assert generator().write(tmp_path) == []


def test_reading_the_catalog_loads_no_heavy_library() -> None:
    """`hpcvlm launch` has a quarter of a second; `hpcvlm ls` reads no file of this kind at all."""
    heavy = "{'pydantic', 'jinja2', 'submitit', 'httpx', 'typer', 'rich'}"
    code = (
        "import sys, hpcvlm.catalog.load, hpcvlm.site.load, hpcvlm.site.cluster;"
        f"print(sorted({heavy} & sys.modules.keys()));"
    )
    light = (
        "import sys, hpcvlm.slurm.parse, hpcvlm.slurm.commands;"
        "print(sorted({'yaml', 'packaging', 'hpcvlm.yamlfile'} & sys.modules.keys()))"
    )
    for program in (code, light):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
        )
        assert done.stdout == "[]\n"
