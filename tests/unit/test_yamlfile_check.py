"""Data against a schema: every problem, each with its line, its key and what was expected."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.errors import HpcvlmError
from hpcvlm.site.schema import EngineInstall, SiteSpec
from hpcvlm.yamlfile import validate
from hpcvlm.yamlfile.check import dotted
from hpcvlm.yamlfile.schema import Section, dump

LEAST = "name: m\nsnapshot: {repo: a/b}\n"


def problems(section: type[Section], text: str) -> list[str]:
    """Every line of the error, without the file's name and the line number of `LEAST`."""
    with pytest.raises(HpcvlmError) as caught:
        validate(section, text, "f.yaml")
    error = caught.value
    assert error.code == "file-invalid"
    if not error.details:
        return [error.sentence]
    assert error.sentence == f"f.yaml: {len(error.details)} problems"
    return list(error.details)


def test_the_least_that_a_model_file_needs() -> None:
    spec = validate(ModelSpec, LEAST, "f.yaml")
    assert (spec.name, spec.snapshot.repo, spec.snapshot.revision) == ("m", "a/b", "main")
    assert (spec.engine.versions, spec.start_timeout, spec.time) == (">=0.9.1", "30m", "2h")
    assert (spec.aliases, spec.options, spec.vision) == ((), {}, False)


def test_a_section_is_made_with_its_own_keys_and_stays_as_it_is() -> None:
    install = EngineInstall(version="0.10.2")
    other = EngineInstall(version="0.10.2")
    assert (install, hash(install)) == (other, hash(other))
    assert install != install.model_copy(update={"version": "0.10.1"})
    assert install.environment is not other.environment
    with pytest.raises(AttributeError, match="cannot assign to version of EngineInstall"):
        install.version = "0.10.1"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="cannot delete version of EngineInstall"):
        del install.version
    with pytest.raises(TypeError, match="EngineInstall needs version"):
        EngineInstall()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="EngineInstall has no binary"):
        EngineInstall(version="0.10.2", binary="x")  # type: ignore[call-arg]


def test_a_site_file_needs_nothing() -> None:
    assert validate(SiteSpec, "", "f.yaml") == SiteSpec()


def test_a_list_becomes_a_tuple_and_a_section_its_class() -> None:
    text = "engines: [{version: 0.10.2, image: /i.sif, binds: [/a, '/b:/c:ro']}]\nmodules: [m]\n"
    site = validate(SiteSpec, text, "f.yaml")
    install = EngineInstall(version="0.10.2", image="/i.sif", binds=("/a", "/b:/c:ro"))
    assert site.engines == (install,)
    assert install.command == ("vllm",)
    assert site.modules == ("m",)


def test_null_is_a_key_that_is_not_set() -> None:
    text = f"{LEAST}time:\noptions: {{seed: ~, dtype: half}}\nengine: null\n"
    spec = validate(ModelSpec, text, "f.yaml")
    assert (spec.time, spec.options, spec.engine.name) == ("2h", {"dtype": "half"}, "vllm")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nmae: x", "nmae: unknown key; did you mean 'name'?"),
        ("served-name: x", "served-name: unknown key; did you mean 'served_name'?"),
        ("revision: x", "revision: unknown key; did you mean 'snapshot.revision'?"),
        ("engine: {version: 1}", "engine.version: unknown key; did you mean 'versions'?"),
        (
            "engine: {zzz: 1}",
            "engine.zzz: unknown key (expected one of name, versions, preferred, reason)",
        ),
        (
            "max-model-len: 1",
            "max-model-len: unknown key (expected one of schema, name, aliases, description,"
            " licence, gated, snapshot, architecture, parameters, active_parameters, weight_bytes,"
            " precision, context_length, engine, parallelism, multimodal, chat, custom_code,"
            " reviewed_code, stage, served_name, options, environment, start_timeout, time, config,"
            " variants, unsupported, verified, sources; an option of vllm serve"
            " belongs under 'options')",
        ),
        (
            "engine: {preferred: 0.10}",
            "engine.preferred: is 0.1, not text (expected a version such as '0.10.2';"
            " put it in quotes)",
        ),
        (
            "engine: {preferred: newest}",
            "engine.preferred: is 'newest' (expected a version such as '0.10.2')",
        ),
        (
            "engine: {versions: new}",
            "engine.versions: is 'new' (expected a range of versions such as '>=0.9.1,<=0.10.2')",
        ),
        ("engine: {name: sglang}", "engine.name: is 'sglang' (expected one of 'vllm')"),
        ("engine: vllm", "engine: is 'vllm' (expected keys such as name, versions, preferred)"),
        ("licence: 3", "licence: is 3, not text (expected text; put it in quotes)"),
        (
            "aliases: m2",
            "aliases: is 'm2' (expected a list: further names; the repository is one without"
            " saying)",
        ),
        ("aliases: [a, 1]", "aliases[1]: is 1, not text (expected text; put it in quotes)"),
        ("aliases: [a, ~]", "aliases[1]: is empty (expected text)"),
        (
            "gated: maybe",
            "gated: is 'maybe' (expected true or false: whether the hub asks for an agreement"
            " before a download)",
        ),
        ("schema: 2", "schema: is 2 (expected one of 1)"),
        ("schema: true", "schema: is true (expected one of 1)"),
        (
            "start_timeout: soon",
            "start_timeout: is 'soon' (expected a duration such as 2h, 90m, 1h30m, 2:00:00,"
            " 1-12:00:00, or a number of minutes)",
        ),
        (
            "time: 30",
            "time: is 30, not text (expected a duration such as 2h, 90m, 1h30m, 2:00:00,"
            " 1-12:00:00, or a number of minutes; put it in quotes)",
        ),
        (
            "parallelism: {gpus: {A100: 0}}",
            "parallelism.gpus.A100: is 0 (expected a whole number, 1 or more)",
        ),
        (
            "parallelism: {attention_heads: yes}",
            "parallelism.attention_heads: is true (expected a whole number, 1 or more)",
        ),
        (
            "multimodal: {limit_per_prompt: {imge: 1}}",
            "multimodal.limit_per_prompt.imge: is no key here (expected one of 'image', 'video',"
            " 'audio'); did you mean 'image'?",
        ),
        (
            "multimodal: {limit_per_prompt: {image: 1.5}}",
            "multimodal.limit_per_prompt.image: is 1.5 (expected a whole number, 0 or more)",
        ),
        (
            "options: {--seed: 1}",
            "options.--seed: is no key here (expected an option's name without leading dashes,"
            " such as max-model-len)",
        ),
        (
            "options: {seed: [[1]]}",
            "options.seed: is a list (expected true, false, a number, text, a list of these, or"
            " keys with values)",
        ),
        ("options: [a]", "options: is a list (expected keys with values: `vllm serve` options,"
         " without the leading dashes; {snapshot}"
            " is the snapshot's folder)"),
        (
            "environment: {THREADS: 8}",
            "environment.THREADS: is 8, not text (expected text; put it in quotes)",
        ),
        (
            "environment: {'A B': x}",
            "environment.A B: is no key here (expected the name of an environment variable)",
        ),
    ],
)  # fmt: skip
def test_one_problem_of_a_model_file(line: str, problem: str) -> None:
    assert problems(ModelSpec, f"{LEAST}{line}\n") == [f"f.yaml:3: {problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("runtime: shifter", "runtime: is 'shifter' (expected one of 'apptainer', 'singularity',"
         " 'docker', 'podman', 'none')"),
        ("memory_per_gpu: 60 GB", "memory_per_gpu: is '60 GB' (expected a size such as 60G)"),
        ("cpus_per_gpu: '8'", "cpus_per_gpu: is '8' (expected a whole number, 1 or more)"),
        ("binds: [data]", "binds[0]: is 'data' (expected a folder as /source, /source:/target or"
         " /source:/target:ro (or rw))"),
        ("engines: [vllm]", "engines[0]: is 'vllm' (expected keys such as name, version, image)"),
        ("engines: [{image: /x}]", "engines[0].version: is missing (expected a version such as"
         " '0.10.2')"),
        ("engines: [{version: 0.9}]", "engines[0].version: is 0.9, not text (expected a version"
         " such as '0.10.2'; put it in quotes)"),
        ("engines: [{version: 0.9.1, command: []}]", "engines[0].command: is an empty list"
         " (expected a list with a command and its arguments)"),
        ("sbatch: {--exclusive: ''}", "sbatch.--exclusive: is no key here (expected a long sbatch"
         " option without its dashes, such as mail-type)"),
        ("partiton: gpu", "partiton: unknown key; did you mean 'partition'?"),
    ],
)  # fmt: skip
def test_one_problem_of_a_site_file(text: str, problem: str) -> None:
    assert problems(SiteSpec, text) == [f"f.yaml:1: {problem}"]


def test_every_problem_is_told_with_its_own_line() -> None:
    text = """\
name: Über
snapshot:
  rep: a/b
  revision: 123
options:
  max-model-len: []
  max-num-seqs: {a: [~]}
environment:
  X: 1
"""
    assert problems(ModelSpec, text) == [
        "f.yaml:1: name: is 'Über' (expected up to 63 small letters, digits, dots, underscores"
        " and hyphens)",
        "f.yaml:3: snapshot.rep: unknown key; did you mean 'repo'?",
        "f.yaml:4: snapshot.revision: is 123, not text (expected a 40-digit commit (pinned), or a"
        " branch or tag; put it in quotes)",
        "f.yaml:2: snapshot.repo: is missing (expected a Hugging Face repository, owner/name)",
        "f.yaml:9: environment.X: is 1, not text (expected text; put it in quotes)",
    ]


def test_an_empty_model_file() -> None:
    assert problems(ModelSpec, "# nothing yet\n") == [
        "f.yaml:1: name: is missing (expected up to 63 small letters, digits, dots, underscores"
        " and hyphens)",
        "f.yaml:1: snapshot: is missing (expected which files the engine serves: a repository and"
        " one revision of it)",
    ]


@pytest.mark.parametrize(("text", "what"), [("- a", "a list"), ("hello", "'hello'"), ("3", "3")])
def test_a_file_that_is_no_mapping(text: str, what: str) -> None:
    sentence = f"f.yaml:1: the file is {what} (expected keys, as in 'name: value')"
    assert problems(ModelSpec, text) == [sentence]


def test_a_long_value_is_shown_in_part() -> None:
    (problem,) = problems(ModelSpec, f"{LEAST}start_timeout: {'x' * 200}\n")
    assert f"is '{'x' * 59}... (expected" in problem


def test_messages_have_no_words_of_the_machinery() -> None:
    text = "name: [1]\nsnapshot: 3\noptions: {a: [[1]]}\ngated: [1]\n"
    told = " ".join(problems(ModelSpec, text))
    for word in ("pydantic", "http", "Traceback", "<class", "NoneType", "dict", "str_", "input_"):
        assert word not in told


def test_a_key_as_messages_show_it() -> None:
    assert dotted(("engines", 0, "binds", 1)) == "engines[0].binds[1]"
    assert dotted(("a", "b")) == "a.b"


def test_a_section_is_written_out_as_a_file_would_hold_it() -> None:
    spec = validate(ModelSpec, LEAST, "f.yaml")
    data = dump(spec)
    assert data["schema"] == 1
    assert data["snapshot"] == {"repo": "a/b", "revision": "main", "path": None}
    assert data["aliases"] == []
    assert spec.model_dump() == data
    assert spec.model_copy(update={"time": "1h"}).time == "1h"


KEYS = st.sampled_from(
    [
        "name", "snapshot", "repo", "revision", "engine", "versions", "options", "environment",
        "parallelism", "gpus", "aliases", "schema", "time", "multimodal", "limit_per_prompt",
        "image", "engines", "version", "command", "binds", "sbatch", "runtime", "nonsense",
    ]
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "m", "a/b", "2h", "0.10.2", ">=1", "apptainer", "/a:/b"])
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(VALUES)
@settings(deadline=None, max_examples=300)
def test_any_data_is_a_value_or_an_error(data: object) -> None:
    import yaml

    text = yaml.safe_dump(data, allow_unicode=True)
    for section in (ModelSpec, SiteSpec):
        try:
            assert isinstance(validate(section, text, "f.yaml"), section)
        except HpcvlmError as error:
            assert error.code == "file-invalid"
            assert all(line.startswith("f.yaml") for line in (error.sentence, *error.details))


@given(st.text(max_size=100))
@settings(deadline=None)
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    for section in (ModelSpec, SiteSpec):
        try:
            validate(section, text, "f.yaml")
        except HpcvlmError as error:
            assert error.code == "file-invalid"
