"""Reading the parser of `vllm serve` out of its source: every way in which a flag is declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.vllm_tables import compact
from scripts.vllm_tables.flags import FlagReader, kind_of
from scripts.vllm_tables.registries import architectures, batch_defaults, tool_parsers
from scripts.vllm_tables.source import Release, Unknown

SERVE = """
from vllm.entrypoints.cli_args import make_arg_parser
class ServeSubcommand:
    def subparser_init(self, subparsers):
        serve_parser = subparsers.add_parser("serve")
        serve_parser = make_arg_parser(serve_parser)
        serve_parser.epilog = "…"
        return serve_parser
"""
CLI_ARGS = """
from vllm.config import config
from vllm.engine.arg_utils import AsyncEngineArgs, get_kwargs
@config
class BaseArgs:
    api_key: list[str] | None = None
    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs["middleware"]["action"] = "append"
        del frontend_kwargs["middleware"]["nargs"]
        return frontend_kwargs
    @classmethod
    def add_cli_args(cls, parser):
        frontend_kwargs = get_kwargs(cls)
        frontend_kwargs = cls._customize_cli_kwargs(frontend_kwargs)
        frontend_group = parser.add_argument_group(title="Frontend")
        for key, value in frontend_kwargs.items():
            frontend_group.add_argument(f"--{key.replace('_', '-')}", **value)
        return parser
@config
class FrontendArgs(BaseArgs):
    port: int = 8000
    middleware: list[str] = []
    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        frontend_kwargs = super()._customize_cli_kwargs(frontend_kwargs)
        frontend_kwargs["port"]["default"] = 1234
        return frontend_kwargs
def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    parser = FrontendArgs.add_cli_args(parser)
    parser = AsyncEngineArgs.add_cli_args(parser)
    return parser
"""
CONFIG = """
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Optional, Union
from pydantic import Field, SkipValidation
if TYPE_CHECKING:
    from other import Formats
else:
    Formats = str
Sizes = Literal[1, 8, 16]
class Runner(Enum):
    AUTO = "auto"
    SLOW = "slow"
@config
class Inner:
    a: int = 1
@config
class ModelConfig:
    eager: bool = False
    length: Optional[int] = None
    tokens: int | None = None
    block: SkipValidation[Sizes] = None
    share: float = Field(default=0.9, gt=0)
    inner: Inner = Field(default_factory=Inner)
    overrides: Union[dict, str] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    formats: Formats = "auto"
    runner: str = Runner.AUTO.value
    open: Literal["x", "y"] | str = "x"
"""
ARG_UTILS = """
import argparse, json
from vllm.config import ModelConfig, Runner
def get_kwargs(cls):
    x = "metavar" if contains_type(type_hints, str) else "choices"
    if name in {"tokens"}:
        kwargs[name]["type"] = human_readable_int
    if name == "length":
        kwargs[name]["type"] = human_readable_int_or_auto
class EngineArgs:
    quiet: bool = True
    @staticmethod
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        group = parser.add_argument_group(title="Model")
        group.add_argument("--eager", "-e", **model_kwargs["eager"])
        group.add_argument("--length", **model_kwargs["length"])
        group.add_argument("--tokens", **{**model_kwargs["tokens"], "default": 7})
        group.add_argument("--block", **model_kwargs["block"])
        group.add_argument("--share", "--part", **model_kwargs["share"])
        group.add_argument("--inner", **model_kwargs["inner"])
        group.add_argument("--overrides", **model_kwargs["overrides"])
        group.add_argument("--limits", **model_kwargs["limits"])
        group.add_argument("--formats", **model_kwargs["formats"])
        group.add_argument("--runner", choices=[f.value for f in Runner], **model_kwargs["runner"])
        group.add_argument("--open", **model_kwargs["open"])
        group.add_argument("--old", action="store_true", deprecated=True)
        group.add_argument("--loud", action=argparse.BooleanOptionalAction,
                           default=not EngineArgs.quiet)
        group.add_argument("--raw", type=json.loads, default=compute())
        group.add_argument("--token", type=str, nargs="?", const=True)
        return parser
class AsyncEngineArgs(EngineArgs):
    @staticmethod
    def add_cli_args(parser, async_args_only=False):
        if not async_args_only:
            parser = EngineArgs.add_cli_args(parser)
        current_platform.pre_register_and_update(parser)
        return parser
    def sizes(self):
        if device_memory >= 70 * GiB_bytes and "a100" not in device_name:
            default_max_num_batched_tokens = {UsageContext.OPENAI_API_SERVER: 8192}
            default_max_num_seqs = 1024
        else:
            default_max_num_batched_tokens = {UsageContext.OPENAI_API_SERVER: 2048}
            default_max_num_seqs = 256
"""
REGISTRY = """
_TEXT_MODELS = {"A": ("a", "A")}
_MULTIMODAL_MODELS = {"B": ("b", "B"), **{k: v for k, v in _TEXT_MODELS.items()}}
_VLLM_MODELS = {**_TEXT_MODELS, **_MULTIMODAL_MODELS}
"""
FILES = {
    "entrypoints/cli/serve.py": SERVE,
    "entrypoints/cli_args.py": CLI_ARGS,
    "config/__init__.py": CONFIG,
    "engine/arg_utils.py": ARG_UTILS,
    "model_executor/models/registry.py": REGISTRY,
    "model_executor/models/interfaces.py": "class SupportsV0Only: pass",
    "model_executor/models/a.py": "class A: pass",
    "model_executor/models/b.py": "class Base(SupportsV0Only): pass\nclass B(Base): pass",
    "entrypoints/openai/tool_parsers/__init__.py": "from .one import One",
    "entrypoints/openai/tool_parsers/one.py": (
        "@ToolParserManager.register_module(['one', 'uno'])\nclass One: pass"
    ),
    "entrypoints/openai/tool_parsers/unused.py": (
        "@ToolParserManager.register_module('unused')\nclass Two: pass"
    ),
}


@pytest.fixture
def small(tmp_path: Path) -> Release:
    """A tree that declares flags in each of the ways that vLLM does."""
    for name, text in FILES.items():
        path = tmp_path / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Release(tmp_path)


def test_every_way_of_declaring_a_flag(small: Release) -> None:
    found = FlagReader(small).read()
    kinds = {name: kind_of(kwargs) for name, kwargs in found.items()}
    assert kinds == {
        "api-key": "list",
        "port": "int",
        "middleware": "append",
        "eager": "boolean",
        "length": "int-or-auto",
        "tokens": "int-with-suffix",
        "block": "int",
        "share": "float",
        "inner": "json",
        "overrides": "text-or-json",
        "limits": "json",
        "formats": "text",
        "runner": "text",
        "open": "text",
        "old": "switch",
        "loud": "boolean",
        "raw": "json",
        "token": "optional",
    }
    assert found["port"]["default"] == 1234
    assert found["tokens"]["default"] == 7
    assert found["share"]["default"] == 0.9
    assert found["loud"]["default"] is False
    assert found["limits"]["default"] == {}
    assert found["runner"]["default"] == "auto"
    assert found["inner"]["default"] == Unknown("Inner()")
    assert found["raw"]["default"] == Unknown("compute()")
    assert found["block"]["choices"] == [1, 8, 16]
    assert found["runner"]["choices"] == ["auto", "slow"]
    assert "choices" not in found["open"]
    assert found["eager"]["aliases"] == ["-e"]
    assert found["share"]["aliases"] == ["--part"]
    assert found["old"]["deprecated"] is True


def test_a_statement_that_is_not_understood_ends_the_run(small: Release) -> None:
    path = small.folder / "vllm" / "entrypoints" / "cli_args.py"
    path.write_text(path.read_text().replace("    return parser\n", "    parser.surprise()\n"))
    with pytest.raises(SystemExit, match=r"not understood: parser\.surprise"):
        FlagReader(Release(small.folder)).read()


def test_architectures_parsers_and_sizes(small: Release) -> None:
    found = architectures(small)
    assert set(found) == {"A", "B"}
    assert (found["B"].multimodal, found["B"].v0_only) == (True, True)
    assert (found["A"].category, found["A"].v0_only) == ("text", False)
    assert tool_parsers(small) == {"one", "uno"}
    assert batch_defaults(small) == [
        {"gib": 70, "not": ["a100"], "max-num-batched-tokens": 8192, "max-num-seqs": 1024},
        {"gib": 0, "max-num-batched-tokens": 2048, "max-num-seqs": 256},
    ]


def test_only_changes_are_stored() -> None:
    assert compact.spans([True, True, False, True]) == [[0, 1], [3, 3]]
    assert compact.series([(0, "a"), (1, "a"), (3, "b")]) == [[0, "a"], [3, "b"]]
    assert compact.presence([["x"], ["x", "y"], ["y"]]) == {"x": [[0, 1]], "y": [[1, 2]]}
    assert compact.plain({"a": (Unknown("f()"), 1)}) == {"a": [{"computed": "f()"}, 1]}
