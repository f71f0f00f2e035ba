"""The schema of a model file: what one YAML under configs/models/ may say.

Every key is declared here; an unknown key is an error. `hpcvlm models schema` prints the same as
JSON Schema for editors.
"""

# Without `from __future__ import annotations`: the types are read at run time, and as texts each
# of them would have to be compiled a second time.
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


def is_version(text: str) -> bool:
    """Whether a text is a version, such as ``0.10.2``."""
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
Commit = Annotated[str, Rule("a commit of 40 hexadecimal digits", pattern=r"[0-9a-f]{40}")]
Revision = Annotated[
    str,
    Rule(
        "a 40-digit commit (pinned), or a branch or tag",
        # Git allows no .. in a name, and here it would lead out of the hub cache.
        pattern=r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]*",
    ),
]
VersionRange = Annotated[
    str, Rule("a range of versions such as '>=0.9.1,<=0.10.2'", accepts=_is_version_range)
]
Version = Annotated[str, Rule("a version such as '0.10.2'", accepts=is_version)]
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


class SnapshotSource(Section):
    """Which files the engine serves: a repository and one revision of it."""

    repo: RepositoryId = about("whose files are served")
    revision: Revision = about(
        "which version of them; only a commit stays the same", default="main"
    )
    path: str | None = about(
        "a plain folder that holds the files, where they lie in no hub cache", default=None
    )


class EngineRequirement(Section):
    """Which engine can serve the model, and which versions of it."""

    name: Literal["vllm"] = about("the engine", default="vllm")
    versions: VersionRange = about(
        "versions of the engine that can serve the model", default=">=0.9.1"
    )
    preferred: Version | None = about(
        "version to install where a site has none in the range", default=None
    )
    reason: str = about("why the range ends where it does", default="")


class Parallelism(Section):
    """How the model is spread over GPUs."""

    attention_heads: Count | None = about(
        "query heads; the tensor parallel size must divide them", default=None
    )
    sizes: tuple[Count, ...] = about(
        "tensor parallel sizes that work; all that divide the heads when empty", default=()
    )
    gpus: dict[str, Count] = about(
        "GPUs per node by GPU type; the key 'default' serves every other type", default_factory=dict
    )


class TokensPerImage(Section):
    """How many tokens of the prompt one image takes."""

    most: Count | None = about(
        "most for one image, with this file's processor settings", default=None
    )
    rule: str = about("how they are counted, in words", default="")


class Multimodal(Section):
    """What besides text a prompt may hold."""

    limit_per_prompt: dict[Modality, Limit] = about(
        "largest number of items per prompt, by modality", default_factory=dict
    )
    processor: dict[str, object] = about("vLLM's --mm-processor-kwargs", default_factory=dict)
    tokens_per_image: TokensPerImage = about(
        "how many tokens of the prompt one image takes", default=TokensPerImage()
    )


class Chat(Section):
    """How conversations become prompts, and answers become tool calls and reasoning."""

    template: str | None = about(
        "vLLM's --chat-template: an absolute path inside the engine's image; the snapshot's "
        "own template when left out",
        default=None,
    )
    tools: str | None = about(
        "vLLM's --tool-call-parser; no tool calls when left out", default=None
    )
    reasoning: str | None = about("vLLM's --reasoning-parser", default=None)


class Verified(Section):
    """One run that proved that the model works."""

    date: Date = about("day of the run")
    gpus: str = about("GPUs it ran on, such as A100-80:4")
    engine: Version = about("version of the engine")
    variant: VariantName | None = about("variant that ran", default=None)
    evidence: str = about("where the report of the run is", default="")


class Unsupported(Section):
    """Why no engine can serve the model, and what can be taken in its place."""

    reason: str = about("why")
    instead: tuple[ModelName, ...] = about(
        "models of this catalog that do what it does", default=()
    )


class Variant(Section):
    """Another set of weights of the model: what is different from the rest of the file.

    Launched as ``NAME:VARIANT``. Every key replaces the model's own, mappings entry by entry.
    """

    UNKNOWN_KEY = "an option of vllm serve belongs under 'options'"

    aliases: tuple[str, ...] = about(
        "further names; its repository is one without saying", default=()
    )
    description: str | None = about("one sentence for lists", default=None)
    licence: str | None = about("the licence, where it is another", default=None)
    gated: bool | None = about("as of the model", default=None)
    snapshot: SnapshotSource | None = about("which files the engine serves", default=None)
    parameters: Count | None = about("as of the model", default=None)
    weight_bytes: Count | None = about("as of the model", default=None)
    precision: str | None = about("as of the model", default=None)
    architecture: ClassName | None = about("as of the model", default=None)
    context_length: Count | None = about("as of the model", default=None)
    engine: EngineRequirement | None = about("as of the model", default=None)
    parallelism: Parallelism | None = about("as of the model", default=None)
    multimodal: Multimodal | None = about("as of the model", default=None)
    chat: Chat | None = about("as of the model", default=None)
    custom_code: str | None = about("as of the model", default=None)
    reviewed_code: Commit | None = about("as of the model", default=None)
    served_name: str | None = about("as of the model", default=None)
    options: dict[OptionName, OptionValue] = about(
        "`vllm serve` options besides the model's", default_factory=dict
    )
    environment: dict[VariableName, str] = about(
        "environment of the engine besides the model's", default_factory=dict
    )
    config: dict[str, object] = about("parts of config.json that differ", default_factory=dict)
    start_timeout: Duration | None = about("as of the model", default=None)
    time: Duration | None = about("as of the model", default=None)


class ModelSpec(Section):
    """One model that can be launched by name."""

    UNKNOWN_KEY = "an option of vllm serve belongs under 'options'"

    schema_version: Literal[1] = about("version of this schema", default=1, written="schema")
    name: ModelName = about("what `hpcvlm launch NAME` takes; also the file's name, without .yaml")
    aliases: tuple[str, ...] = about(
        "further names; the repository is one without saying", default=()
    )
    description: str = about("one sentence for `hpcvlm models ls`", default="")
    licence: str = about("the licence, and what it forbids", default="")
    gated: bool = about("whether the hub asks for an agreement before a download", default=False)
    snapshot: SnapshotSource = about(
        "which files the engine serves: a repository and one revision of it"
    )
    architecture: ClassName | None = about(
        "the class under 'architectures' in config.json", default=None
    )
    parameters: Count | None = about("how many there are, vision encoder included", default=None)
    active_parameters: Count | None = about(
        "how many work on one token, in a mixture of experts", default=None
    )
    weight_bytes: Count | None = about(
        "bytes of the weights on disk, all files together", default=None
    )
    precision: str | None = about(
        "how the weights are stored, such as w4a16, awq or fp8; 16 bit if left out", default=None
    )
    context_length: Count | None = about(
        "most tokens of prompt and answer that the model was made for", default=None
    )
    engine: EngineRequirement = about(
        "which engine can serve the model, and which versions of it", default=EngineRequirement()
    )
    parallelism: Parallelism = about("how the model is spread over GPUs", default=Parallelism())
    multimodal: Multimodal = about("what besides text a prompt may hold", default=Multimodal())
    chat: Chat = about(
        "how conversations become prompts, and answers become tool calls and reasoning",
        default=Chat(),
    )
    custom_code: str | None = about(
        "why the engine must run code of the repository; never when left out", default=None
    )
    reviewed_code: Commit | None = about(
        "the commit of the repository whose code somebody has reviewed; no other one's is run",
        default=None,
    )
    stage: bool | None = about(
        "whether the weights are copied to the node first; as the site does when left out",
        default=None,
    )
    served_name: str | None = about(
        "model id in the API; the repository when left out", default=None
    )
    options: dict[OptionName, OptionValue] = about(
        "`vllm serve` options, without the leading dashes; {snapshot} is the snapshot's folder",
        default_factory=dict,
    )
    environment: dict[VariableName, str] = about("environment of the engine", default_factory=dict)
    start_timeout: Duration = about("longest time from the allocation to ready", default="30m")
    time: Duration = about("time limit of the job when none is asked for", default="2h")
    config: dict[str, object] = about(
        "the parts of config.json that the memory arithmetic needs, as they stand there; the "
        "snapshot's own file replaces them once it is on disk",
        default_factory=dict,
    )
    variants: dict[VariantName, Variant] = about(
        "other weights of the same model, by name", default_factory=dict
    )
    unsupported: Unsupported | None = about(
        "why no engine can serve the model, and what can be taken in its place", default=None
    )
    verified: tuple[Verified, ...] = about("runs that proved that the model works", default=())
    sources: dict[str, str] = about(
        "where each fact is from, by its dotted key or one above it", default_factory=dict
    )

    @property
    def vision(self) -> bool:
        """Whether a prompt may hold an image."""
        return self.multimodal.limit_per_prompt.get("image", 0) > 0
