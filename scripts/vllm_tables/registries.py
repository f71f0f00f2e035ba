"""Model architectures, parsers and sizes that one release knows by itself."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass

from scripts.vllm_tables.source import Release, Unknown, call_name
from scripts.vllm_tables.values import value_of

_MODELS = "vllm.model_executor.models"
_REGISTRY = f"{_MODELS}.registry"
_TOOL_PARSERS = ("vllm.tool_parsers", "vllm.entrypoints.openai.tool_parsers")
_BACKENDS = (
    ("vllm.v1.attention.backends.registry", "AttentionBackendEnum"),
    ("vllm.attention.backends.registry", "AttentionBackendEnum"),
    ("vllm.platforms.interface", "_Backend"),
)
_CONSTANTS = {
    # name in the table: the modules and the name that have held it
    "default-max-num-batched-tokens": (
        ("vllm.utils", "DEFAULT_MAX_NUM_BATCHED_TOKENS"),
        ("vllm.config.scheduler", "SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS"),
    ),
    "multimodal-max-num-batched-tokens": (
        ("vllm.utils", "MULTIMODAL_MODEL_MAX_NUM_BATCHED_TOKENS"),
    ),
    "default-block-size": (("vllm.config.cache", "CacheConfig.DEFAULT_BLOCK_SIZE"),),
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One class name that a checkpoint's config.json may hold."""

    category: str
    module: str
    multimodal: bool
    v0_only: bool


def architectures(release: Release) -> dict[str, Architecture]:
    """Every registered architecture; of a name in several categories, the last counts, as there."""
    found: dict[str, Architecture] = {}
    all_models = release.find(_REGISTRY, "_VLLM_MODELS")
    assert all_models is not None and isinstance(all_models.node, ast.Dict)  # noqa: S101, PT018
    for part in all_models.node.values:
        category = call_name(part).removesuffix("_MODELS").strip("_").lower()
        for name, (module, class_name) in _entries(release, call_name(part)).items():
            found[name] = Architecture(
                category,
                module,
                multimodal=category == "multimodal" or "MultiModal" in class_name,
                v0_only=_is_v0_only(release, module, class_name),
            )
    return found


def _entries(release: Release, table: str) -> dict[str, tuple[str, str]]:
    place = release.find(_REGISTRY, table)
    node = place.node if place else None
    found = {}
    for key, value in (
        zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else []
    ):
        if key is not None:  # `**{…}` repeats entries of another table
            module, class_name = ast.literal_eval(value)
            found[str(ast.literal_eval(key))] = (module, class_name)
    return found


def _is_v0_only(release: Release, module: str, class_name: str) -> bool:
    if release.find_class(f"{_MODELS}.interfaces", "SupportsV0Only") is None:
        return False
    full = module if module.startswith("vllm.") else f"{_MODELS}.{module}"
    place = release.find_class(full, class_name)
    return place is not None and release.inherits(place, "SupportsV0Only")


def named_table(release: Release, name: str) -> dict[str, str]:
    """A table of texts in the registry, such as _PREVIOUSLY_SUPPORTED_MODELS; or empty."""
    place = release.find(_REGISTRY, name)
    value = value_of(release, _REGISTRY, place.node) if place else {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def tool_parsers(release: Release) -> set[str]:
    """The names that --tool-call-parser takes without a plugin."""
    package = next(name for name in _TOOL_PARSERS if release.path(name))
    return _registered(release, package, "_TOOL_PARSERS_TO_REGISTER")


def reasoning_parsers(release: Release) -> set[str]:
    """The names that --reasoning-parser takes without a plugin."""
    return _registered(release, "vllm.reasoning", "_REASONING_PARSERS_TO_REGISTER")


def _registered(release: Release, package: str, table: str) -> set[str]:
    """The keys of the package's table; before 0.11.1, the names in its modules' decorators."""
    listed = release.find(package, table)
    if listed and isinstance(listed.node, ast.Dict):
        return {str(ast.literal_eval(key)) for key in listed.node.keys if key}
    found: set[str] = set()
    for statement in release.module(package).body:
        if isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            full = f"{package}.{module}" if statement.level else module
            found |= _decorated(release.module(full))
    return found


def _decorated(module: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(module):
        for mark in node.decorator_list if isinstance(node, ast.ClassDef) else []:
            if isinstance(mark, ast.Call) and call_name(mark) == "register_module":
                told = [*mark.args, *(k.value for k in mark.keywords if k.arg == "name")]
                value = ast.literal_eval(told[0])
                found |= set(value) if isinstance(value, list) else {value}
    return found


def constants(release: Release) -> dict[str, object]:
    """Sizes that are plain numbers in the source; one that a release does not have is left out."""
    found: dict[str, object] = {}
    for name, homes in _CONSTANTS.items():
        for module, path in homes:
            value = _constant(release, module, path)
            if isinstance(value, int):
                found[name] = value
                break
    return found


def _constant(release: Release, module: str, path: str) -> object:
    owner, _, name = path.rpartition(".")
    if not owner:
        place = release.find(module, name)
        return value_of(release, module, place.node) if place else Unknown(path)
    place = release.find_class(module, owner)
    body = place.node.body if place and isinstance(place.node, ast.ClassDef) else []
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and call_name(statement.target) == name:
            return value_of(release, module, statement.value)
    return Unknown(path)


def batch_defaults(release: Release) -> list[dict[str, object]]:
    """--max-num-seqs and --max-num-batched-tokens of a server, by the GPU's memory, largest first.

    They stand in a chain of `if device_memory >= N * GiB_bytes and …` in arg_utils.py.
    """
    module = "vllm.engine.arg_utils"
    chain = next(
        node
        for node in ast.walk(release.module(module))
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("device_memory >=")
    )
    found: list[dict[str, object]] = []
    branch: list[ast.stmt] = [chain]
    while branch:
        node = branch[0]
        tiered = isinstance(node, ast.If) and len(branch) == 1
        test = ast.unparse(node.test) if isinstance(node, ast.If) and tiered else ""
        body = node.body if isinstance(node, ast.If) and tiered else branch
        found.append(_tier(test) | _server_sizes(body))
        branch = node.orelse if isinstance(node, ast.If) and tiered else []
    return found


def _tier(test: str) -> dict[str, object]:
    size = re.match(r"device_memory >= (\d+) \* GiB_bytes", test)
    besides = sorted(
        ({"a100"} if "'a100' not in device_name" in test else set())
        | ({"gb10"} if "not is_gb10" in test else set())
    )
    return {"gib": int(size[1]) if size else 0, **({"not": besides} if besides else {})}


def _server_sizes(body: list[ast.stmt]) -> dict[str, object]:
    found: dict[str, object] = {}
    for statement in body:
        if not isinstance(statement, ast.Assign):
            continue
        flag = call_name(statement.targets[0]).removeprefix("default_").replace("_", "-")
        match statement.value:
            case ast.Constant(value=value):
                found[flag] = value
            case ast.Dict(keys=keys, values=values):
                for key, size in zip(keys, values, strict=True):
                    if key and call_name(key) == "OPENAI_API_SERVER":
                        found[flag] = ast.literal_eval(size)
            case _:
                pass
    return found


def recipes(release: Release) -> list[str]:
    """The models, ORG/REPO, for which the release's source archive has a recipe."""
    folder = release.folder / "recipes" / "models"
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def attention_backends(release: Release) -> set[str]:
    """The attention backends' names, as --attention-backend or VLLM_ATTENTION_BACKEND has them."""
    for module, name in _BACKENDS:
        place = release.find_class(module, name)
        if place and isinstance(place.node, ast.ClassDef):
            return {
                call_name(statement.targets[0])
                for statement in place.node.body
                if isinstance(statement, ast.Assign)
            }
    sys.exit(f"{release.folder}: no list of attention backends")


def environment(release: Release) -> set[str]:
    """The environment variables that vLLM reads through vllm/envs.py."""
    place = release.find("vllm.envs", "environment_variables")
    keys = place.node.keys if place and isinstance(place.node, ast.Dict) else []
    return {str(ast.literal_eval(key)) for key in keys if key}


def has_inverse_flags(release: Release) -> bool:
    """Whether the parser takes --disable-x for a boolean --enable-x, and the other way round."""
    return release.find_class("vllm.utils.argparse_utils", "EnableDisableAction") is not None
