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
VariantName = Annotated[
    str,
    Rule(
        "up to 31 small letters, digits, dots, underscores and hyphens, such as awq or fp8",
        pattern=r"[a-z0-9][a-z0-9._-]{0,30}",
    ),
]
ClassName = Annotated[
    str,
    Rule(
        "the class under 'architectures' in config.json, such as LlavaForConditionalGeneration",
        pattern=r"[A-Za-z_][A-Za-z0-9_]*",
    ),
]
Date = Annotated[str, Rule("a day as 'YYYY-MM-DD'", pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SnapshotSource(Section):
    """Which files the engine serves: a repository and one revision of it."""

    repo: RepositoryId = field(metadata=about("whose files are served"))
    revision: Revision = field(
        default="main", metadata=about("which version of them; only a commit stays the same")
    )
    path: str | None = field(
        default=None,
        metadata=about("a plain folder that holds the files, where they lie in no hub cache"),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Parallelism(Section):
    """How the model is spread over GPUs."""

    attention_heads: Count | None = field(
        default=None,
        metadata=about("query heads; the tensor parallel size must divide them"),
    )
    sizes: tuple[Count, ...] = field(
        default=(),
        metadata=about("tensor parallel sizes that work; all that divide the heads when empty"),
    )
    gpus: dict[str, Count] = field(
        default_factory=dict,
        metadata=about("GPUs per node by GPU type; the key 'default' serves every other type"),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TokensPerImage(Section):
    """How many tokens of the prompt one image takes."""

    most: Count | None = field(
        default=None, metadata=about("most for one image, with this file's processor settings")
    )
    rule: str = field(default="", metadata=about("how they are counted, in words"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Multimodal(Section):
    """What besides text a prompt may hold."""

    limit_per_prompt: dict[Modality, Limit] = field(
        default_factory=dict, metadata=about("largest number of items per prompt, by modality")
    )
    processor: dict[str, object] = field(
        default_factory=dict, metadata=about("vLLM's --mm-processor-kwargs")
    )
    tokens_per_image: TokensPerImage = field(
        default=TokensPerImage(), metadata=about("how many tokens of the prompt one image takes")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Chat(Section):
    """How conversations become prompts, and answers become tool calls and reasoning."""

    template: str | None = field(
        default=None,
        metadata=about(
            "vLLM's --chat-template: an absolute path inside the engine's image; the snapshot's "
            "own template when left out"
        ),
    )
    tools: str | None = field(
        default=None, metadata=about("vLLM's --tool-call-parser; no tool calls when left out")
    )
    reasoning: str | None = field(default=None, metadata=about("vLLM's --reasoning-parser"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Verified(Section):
    """One run that proved that the model works."""

    date: Date = field(metadata=about("day of the run"))
    gpus: str = field(metadata=about("GPUs it ran on, such as A100-80:4"))
    engine: Version = field(metadata=about("version of the engine"))
    variant: VariantName | None = field(default=None, metadata=about("variant that ran"))
    evidence: str = field(default="", metadata=about("where the report of the run is"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Unsupported(Section):
    """Why no engine can serve the model, and what can be taken in its place."""

    reason: str = field(metadata=about("why"))
    instead: tuple[ModelName, ...] = field(
        default=(), metadata=about("models of this catalog that do what it does")
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Variant(Section):
    """Another set of weights of the model: what is different from the rest of the file.

    Launched as ``NAME:VARIANT``. Every key replaces the model's own, mappings entry by entry.
    """

    UNKNOWN_KEY = "an option of vllm serve belongs under 'options'"

    aliases: tuple[str, ...] = field(
        default=(), metadata=about("further names; its repository is one without saying")
    )
    description: str | None = field(default=None, metadata=about("one sentence for lists"))
    licence: str | None = field(default=None, metadata=about("the licence, where it is another"))
    gated: bool | None = field(default=None, metadata=about("as of the model"))
    snapshot: SnapshotSource | None = field(
        default=None, metadata=about("which files the engine serves")
    )
    parameters: Count | None = field(default=None, metadata=about("as of the model"))
    weight_bytes: Count | None = field(default=None, metadata=about("as of the model"))
    precision: str | None = field(default=None, metadata=about("as of the model"))
    architecture: ClassName | None = field(default=None, metadata=about("as of the model"))
    context_length: Count | None = field(default=None, metadata=about("as of the model"))
    engine: EngineRequirement | None = field(default=None, metadata=about("as of the model"))
    parallelism: Parallelism | None = field(default=None, metadata=about("as of the model"))
    multimodal: Multimodal | None = field(default=None, metadata=about("as of the model"))
    chat: Chat | None = field(default=None, metadata=about("as of the model"))
    custom_code: str | None = field(default=None, metadata=about("as of the model"))
    served_name: str | None = field(default=None, metadata=about("as of the model"))
    options: dict[OptionName, OptionValue] = field(
        default_factory=dict, metadata=about("`vllm serve` options besides the model's")
    )
    environment: dict[VariableName, str] = field(
        default_factory=dict, metadata=about("environment of the engine besides the model's")
    )
    config: dict[str, object] = field(
        default_factory=dict, metadata=about("parts of config.json that differ")
    )
    start_timeout: Duration | None = field(default=None, metadata=about("as of the model"))
    time: Duration | None = field(default=None, metadata=about("as of the model"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
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
    architecture: ClassName | None = field(
        default=None, metadata=about("the class under 'architectures' in config.json")
    )
    parameters: Count | None = field(
        default=None, metadata=about("how many there are, vision encoder included")
    )
    active_parameters: Count | None = field(
        default=None, metadata=about("how many work on one token, in a mixture of experts")
    )
    weight_bytes: Count | None = field(
        default=None, metadata=about("bytes of the weights on disk, all files together")
    )
    precision: str | None = field(
        default=None,
        metadata=about("how the weights are stored, such as w4a16, awq or fp8; 16 bit if left out"),
    )
    context_length: Count | None = field(
        default=None, metadata=about("most tokens of prompt and answer that the model was made for")
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
    chat: Chat = field(
        default=Chat(),
        metadata=about(
            "how conversations become prompts, and answers become tool calls and reasoning"
        ),
    )
    custom_code: str | None = field(
        default=None,
        metadata=about("why the engine must run code of the repository; never when left out"),
    )
    served_name: str | None = field(
        default=None, metadata=about("model id in the API; the repository when left out")
    )
    options: dict[OptionName, OptionValue] = field(
        default_factory=dict,
        metadata=about(
            "`vllm serve` options, without the leading dashes; {snapshot} is the snapshot's folder"
        ),
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
    config: dict[str, object] = field(
        default_factory=dict,
        metadata=about(
            "the parts of config.json that the memory arithmetic needs, as they stand there; the "
            "snapshot's own file replaces them once it is on disk"
        ),
    )
    variants: dict[VariantName, Variant] = field(
        default_factory=dict, metadata=about("other weights of the same model, by name")
    )
    unsupported: Unsupported | None = field(
        default=None,
        metadata=about("why no engine can serve the model, and what can be taken in its place"),
    )
    verified: tuple[Verified, ...] = field(
        default=(), metadata=about("runs that proved that the model works")
    )
    sources: dict[str, str] = field(
        default_factory=dict,
        metadata=about("where each fact is from, by its dotted key or one above it"),
    )

    @property
    def vision(self) -> bool:
        """Whether a prompt may hold an image."""
        return self.multimodal.limit_per_prompt.get("image", 0) > 0
