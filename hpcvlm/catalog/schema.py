"""The schema of a model file: what one YAML under configs/models/ may say.

Every key is declared here; an unknown key is an error. `hpcvlm models schema` prints the same as
JSON Schema for editors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.time import EXPECTED, parse_duration
from hpcvlm.yamlfile.schema import Rule, Section, about

Modality = Literal["image", "video", "audio"]
OptionValue = Annotated[
    bool | int | float | str | list[str | int | float] | dict[str, object],
    Rule("true, false, a number, text, a list of these, or keys with values"),
]


def _is_version_range(text: str) -> bool:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def _is_version(text: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _is_duration(text: str) -> bool:
    try:
        parse_duration(text)
    except HpcvlmError:
        return False
    return True


ModelName = Annotated[
    str,
    Rule(
        "up to 63 small letters, digits, dots, underscores and hyphens",
        pattern=r"[a-z0-9][a-z0-9._-]{0,62}",
    ),
]
RepositoryId = Annotated[
    str,
    Rule(
        "a Hugging Face repository, owner/name",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+",
    ),
]
Revision = Annotated[
    str,
    Rule(
        "a 40-digit commit (pinned), or a branch or tag",
        pattern=r"[A-Za-z0-9_][A-Za-z0-9_./-]*",
    ),
]
VersionRange = Annotated[
    str, Rule("a range of versions such as '>=0.9.1,<=0.10.2'", accepts=_is_version_range)
]
Version = Annotated[str, Rule("a version such as '0.10.2'", accepts=_is_version)]
Duration = Annotated[str, Rule(f"a duration {EXPECTED}", accepts=_is_duration)]
Count = Annotated[int, Rule("a whole number, 1 or more", at_least=1)]
Limit = Annotated[int, Rule("a whole number, 0 or more", at_least=0)]
OptionName = Annotated[
    str,
    Rule(
        "an option's name without leading dashes, such as max-model-len",
        pattern=r"[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_.-]+)?",
    ),
]
VariableName = Annotated[
    str, Rule("the name of an environment variable", pattern=r"[A-Za-z_][A-Za-z0-9_]*")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSource(Section):
    """Which files the engine serves: a repository and one revision of it."""

    repo: RepositoryId = field(metadata=about("whose files are served"))
    revision: Revision = field(
        default="main", metadata=about("which version of them; only a commit stays the same")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequirement(Section):
    """Which engine can serve the model, and which versions of it."""

    name: Literal["vllm"] = field(default="vllm", metadata=about("the engine"))
    versions: VersionRange = field(
        default=">=0.9.1", metadata=about("versions of the engine that can serve the model")
    )
    preferred: Version | None = field(
        default=None, metadata=about("version to install where a site has none in the range")
    )
    reason: str = field(default="", metadata=about("why the range ends where it does"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism(Section):
    """How the model is spread over GPUs."""

    attention_heads: Count | None = field(
        default=None,
        metadata=about("query heads; the tensor parallel size must divide them"),
    )
    gpus: dict[str, Count] = field(
        default_factory=dict,
        metadata=about("GPUs per node by GPU type; the key 'default' serves every other type"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Multimodal(Section):
    """What besides text a prompt may hold."""

    limit_per_prompt: dict[Modality, Limit] = field(
        default_factory=dict, metadata=about("largest number of items per prompt, by modality")
    )
    processor: dict[str, object] = field(
        default_factory=dict, metadata=about("vLLM's --mm-processor-kwargs")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(Section):
    """One model that can be launched by name."""

    UNKNOWN_KEY = "an option of vllm serve belongs under 'options'"

    schema_version: Literal[1] = field(
        default=1, metadata=about("version of this schema", key="schema")
    )
    name: ModelName = field(
        metadata=about("what `hpcvlm launch NAME` takes; also the file's name, without .yaml")
    )
    aliases: tuple[str, ...] = field(
        default=(), metadata=about("further names; the repository is one without saying")
    )
    description: str = field(default="", metadata=about("one sentence for `hpcvlm models ls`"))
    licence: str = field(default="", metadata=about("the licence, and what it forbids"))
    gated: bool = field(
        default=False, metadata=about("whether the hub asks for an agreement before a download")
    )
    snapshot: SnapshotSource = field(
        metadata=about("which files the engine serves: a repository and one revision of it")
    )
    engine: EngineRequirement = field(
        default=EngineRequirement(),
        metadata=about("which engine can serve the model, and which versions of it"),
    )
    parallelism: Parallelism = field(
        default=Parallelism(), metadata=about("how the model is spread over GPUs")
    )
    multimodal: Multimodal = field(
        default=Multimodal(), metadata=about("what besides text a prompt may hold")
    )
    served_name: str | None = field(
        default=None, metadata=about("model id in the API; the repository when left out")
    )
    options: dict[OptionName, OptionValue] = field(
        default_factory=dict,
        metadata=about("`vllm serve` options, without the leading dashes"),
    )
    environment: dict[VariableName, str] = field(
        default_factory=dict, metadata=about("environment of the engine")
    )
    start_timeout: Duration = field(
        default="30m", metadata=about("longest time from the allocation to ready")
    )
    time: Duration = field(
        default="2h", metadata=about("time limit of the job when none is asked for")
    )

    @property
    def vision(self) -> bool:
        """Whether a prompt may hold an image."""
        return self.multimodal.limit_per_prompt.get("image", 0) > 0
