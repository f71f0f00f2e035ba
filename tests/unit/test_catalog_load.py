"""Layers of model files, names and aliases, and --set."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcvlm.catalog.load import (
    Layer,
    Resolved,
    all_models,
    apply_settings,
    find_model,
    try_all_models,
)
from hpcvlm.errors import HpcvlmError

BIG = """\
name: big-vlm
aliases: [big, Large-VLM]
snapshot:
  repo: Org/Big-VLM
  revision: abc
options:
  max_model_len: 1000
  seed: 1
multimodal:
  limit_per_prompt: {image: 2}
  processor: {size: {height: 1, width: 2}}
environment: {A: '1'}
"""
SMALL = "snapshot: {repo: Org/Small-VLM}\ntime: 1h\n"


class Folder:
    """A folder that says which files were read."""

    def __init__(self, texts: Mapping[str, str | None], name: str = "models") -> None:
        self.texts = texts
        self.name = name
        self.read_files: list[str] = []

    def names(self) -> list[str]:
        return list(self.texts)

    def read(self, name: str) -> str | None:
        self.read_files.append(name)
        return self.texts.get(name)

    def path(self, name: str) -> str:
        return f"/{self.name}/{name}"


def shipped(**more: str | None) -> Layer:
    texts = {"big-vlm.yaml": BIG, "small-vlm.yaml": SMALL, **more}
    return Layer("shipped", Folder(texts, "shipped"))


def user(**texts: str | None) -> Layer:
    return Layer(
        "user", Folder({f"{k.replace('_', '-')}.yaml": v for k, v in texts.items()}, "user")
    )


def refused(*layers: Layer, name: str = "big-vlm") -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        find_model(name, layers)
    return caught.value


def test_a_model_by_its_name_reads_one_file() -> None:
    layer = shipped()
    found = find_model("big-vlm", [layer])
    assert found.spec.snapshot.repo == "Org/Big-VLM"
    assert found.spec.options == {"max-model-len": 1000, "seed": 1}
    assert found.layer == "shipped"
    assert found.files == {"shipped": "/shipped/big-vlm.yaml"}
    assert isinstance(layer.folder, Folder)
    assert layer.folder.read_files == ["big-vlm.yaml"]


@pytest.mark.parametrize(
    "name", ["big-vlm", "BIG-VLM", "big", "Big", "large-vlm", "Org/Big-VLM", "org/big-vlm"]
)
def test_every_name_of_a_model(name: str) -> None:
    assert find_model(name, [shipped()]).spec.name == "big-vlm"


def test_a_file_need_not_say_its_own_name() -> None:
    found = find_model("small-vlm", [shipped()])
    assert found.spec.name == "small-vlm"
    assert found.sources["name"] == "shipped"


def test_a_higher_layer_says_only_what_is_different() -> None:
    over = "options: {max-model-len: 2000, seed: ~}\nmultimodal: {processor: {size: {width: 9}}}\n"
    found = find_model("big-vlm", [shipped(), user(big_vlm=f"{over}aliases: [mine]\n")])
    assert found.spec.options == {"max-model-len": 2000}
    assert found.spec.multimodal.processor == {"size": {"height": 1, "width": 9}}
    assert found.spec.multimodal.limit_per_prompt == {"image": 2}
    assert found.spec.aliases == ("mine",)
    assert found.files == {"shipped": "/shipped/big-vlm.yaml", "user": "/user/big-vlm.yaml"}
    assert found.layer == "shipped"


def test_every_value_knows_where_it_came_from() -> None:
    over = "options: {max-model-len: 2000}\nenvironment: {B: '2'}\nsnapshot: {revision: def}\n"
    found = find_model("big-vlm", [shipped(), user(big_vlm=over)])
    said = {key: source for key, source in found.sources.items() if source != "default"}
    assert said == {
        "name": "shipped",
        "aliases": "shipped",
        "snapshot.repo": "shipped",
        "snapshot.revision": "user",
        "multimodal.limit_per_prompt.image": "shipped",
        "multimodal.processor.size": "shipped",
        "options.max-model-len": "user",
        "options.seed": "shipped",
        "environment.A": "shipped",
        "environment.B": "user",
    }
    assert {"schema", "engine.versions", "time", "chat.tools"} <= found.sources.keys() - said.keys()


def test_an_alias_of_a_higher_layer() -> None:
    layers = [shipped(), user(big_vlm="aliases: [mine]\n")]
    assert find_model("mine", layers).spec.name == "big-vlm"
    assert refused(*layers, name="large-vlm").code == "model-unknown"


def test_a_model_of_the_users_own() -> None:
    found = find_model("own", [shipped(), user(own="snapshot: {repo: a/b}\n")])
    assert (found.layer, found.spec.snapshot.repo) == ("user", "a/b")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("bigvlm", "; did you mean big-vlm or Org/Big-VLM or big?"),
        ("smal-vlm", "; did you mean small-vlm"),
        ("qqq", ""),
        ("", ""),
    ],
)
def test_an_unknown_model(name: str, hint: str) -> None:
    error = refused(shipped(), name=name)
    assert error.code == "model-unknown"
    assert error.sentence.startswith(f"no model is called {name!r}{hint}")
    assert error.sentence.endswith("?" if hint else f"{name!r}")
    assert error.remedy == "hpcvlm models ls"


def test_two_models_with_one_alias() -> None:
    texts = {"other.yaml": "snapshot: {repo: Org/Big-VLM}\n"}
    error = refused(shipped(**texts), name="org/big-vlm")
    assert error.code == "model-ambiguous"
    assert error.sentence == "'org/big-vlm' names 2 models"
    assert error.remedy == "name one of them: big-vlm, other"


def test_a_mistake_is_told_where_it_was_written() -> None:
    lower = BIG.replace("seed: 1", "seed: [[1]]")
    layers = [shipped(**{"big-vlm.yaml": lower}), user(big_vlm="time: soon\nnmae: x\n")]
    error = refused(*layers)
    assert error.code == "file-invalid"
    assert error.sentence == "/shipped/big-vlm.yaml + /user/big-vlm.yaml: 3 problems"
    assert sorted(line.split(" ")[0] for line in error.details) == [
        "/shipped/big-vlm.yaml:8:",
        "/user/big-vlm.yaml:1:",
        "/user/big-vlm.yaml:2:",
    ]


def test_a_broken_file_does_not_hide_the_others() -> None:
    layer = shipped(**{"broken.yaml": "a: [\n"})
    assert find_model("big", [layer]).spec.name == "big-vlm"
    error = refused(layer, name="nope")
    assert error.details == (
        "not looked at: /shipped/broken.yaml:1: did not find expected node content"
        " (while parsing a flow node)",
    )
    found, broken = try_all_models([layer])
    assert [resolved.spec.name for resolved in found] == ["big-vlm", "small-vlm"]
    assert [error.code for error in broken] == ["file-invalid"]
    with pytest.raises(HpcvlmError):
        all_models([layer])


def test_a_layer_with_two_files_of_one_model_does_not_hide_the_other_layers() -> None:
    twice = user(own="snapshot: {repo: a/b}\n")
    assert isinstance(twice.folder, Folder)
    twice.folder.texts = {**twice.folder.texts, "own.yml": ""}
    found, broken = try_all_models([shipped(), twice])
    assert [resolved.spec.name for resolved in found] == ["big-vlm", "small-vlm"]
    assert [error.sentence for error in broken] == [
        "/user/own.yml: own.yaml is for the same model (expected one of the two)"
    ]


def test_every_model_in_order() -> None:
    layers = [shipped(), user(own="snapshot: {repo: a/b}\n", big_vlm="time: 1h\n")]
    found = [(resolved.spec.name, resolved.layer) for resolved in all_models(layers)]
    assert found == [("big-vlm", "shipped"), ("own", "user"), ("small-vlm", "shipped")]


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (
            {"big-vlm.yaml": "name: other\n"},
            "/shipped/big-vlm.yaml:1: name: is 'other' (expected 'big-vlm', the file's name)",
        ),
        (
            {"big-vlm.yml": BIG},
            "/shipped/big-vlm.yml: big-vlm.yaml is for the same model (expected one of the two)",
        ),
        (
            {"big-vlm.yaml": BIG + "served_name: [1]\n"},
            "/shipped/big-vlm.yaml:13: served_name: is a list (expected text: model id in the API;"
            " the repository when left out)",
        ),
        (
            {"big-vlm.yaml": "snapshot: {repo: a/b}\noptions:\n  a-b: 1\n  a_b: 2\n"},
            "/shipped/big-vlm.yaml:4: options.a_b: stands there twice, with dashes and underscores",
        ),
        ({"big-vlm.yaml": None}, "/shipped/big-vlm.yaml cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(texts: dict[str, str | None], sentence: str) -> None:
    error = refused(shipped(**texts))
    assert error.sentence == sentence
    assert error.code in {"file-invalid", "file-unreadable"}


def test_other_files_in_the_folder_are_no_models() -> None:
    layer = shipped(
        **{"README.md": "[", ".big-vlm.yaml.swp": "[", ".hidden.yaml": "[", ".yaml": "["}
    )
    assert len(all_models([layer])) == 2


def setting(*settings: str) -> Resolved:
    return apply_settings(find_model("big-vlm", [shipped()]), settings)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("options.max-model-len=4096", {"max-model-len": 4096, "seed": 1}),
        ("options.max_model_len=4096", {"max-model-len": 4096, "seed": 1}),
        ("max-model-len=4096", {"max-model-len": 4096, "seed": 1}),
        ("max_model_len = 4096", {"max-model-len": 4096, "seed": 1}),
        ("options.seed=", {"max-model-len": 1000}),
        ("options.seed=null", {"max-model-len": 1000}),
        ("dtype=half", {"max-model-len": 1000, "seed": 1, "dtype": "half"}),
        ("enforce-eager=true", {"max-model-len": 1000, "seed": 1, "enforce-eager": True}),
        (
            "limit-mm-per-prompt.image=4",
            {"max-model-len": 1000, "seed": 1, "limit-mm-per-prompt.image": 4},
        ),
        ("hf-overrides={a: [1]}", {"max-model-len": 1000, "seed": 1, "hf-overrides": {"a": [1]}}),
        ("options=null", {}),
    ],
)
def test_setting_an_option(text: str, options: dict[str, object]) -> None:
    assert setting(text).spec.options == options


def test_setting_other_keys() -> None:
    found = setting(
        "multimodal.limit_per_prompt.image=4",
        "multimodal.limit-per-prompt.video=1",
        "multimodal.processor.size.width=7",
        "environment.THREADS=8",
        "engine.preferred=0.10",
        "parallelism.gpus.nvidia.a100=4",
        "served-name=x",
        "aliases=[a, b]",
        "snapshot.revision=1234567",
    )
    spec = found.spec
    assert spec.multimodal.limit_per_prompt == {"image": 4, "video": 1}
    assert spec.multimodal.processor == {"size": {"height": 1, "width": 7}}
    assert spec.environment == {"A": "1", "THREADS": "8"}
    assert spec.engine.preferred == "0.10"
    assert spec.parallelism.gpus == {"nvidia.a100": 4}
    assert (spec.served_name, spec.aliases) == ("x", ("a", "b"))
    assert spec.snapshot.revision == "1234567"
    assert found.sources["environment.THREADS"] == "command line"
    assert found.sources["environment.A"] == "shipped"
    assert found.sources["engine.versions"] == "default"
    assert found.files == {"shipped": "/shipped/big-vlm.yaml"}


def test_the_last_setting_wins_and_nothing_is_changed_below() -> None:
    before = find_model("big-vlm", [shipped()])
    after = apply_settings(apply_settings(before, ["seed=2"]), ["seed=3", "seed=4"])
    assert (before.spec.options["seed"], after.spec.options["seed"]) == (1, 4)
    assert apply_settings(before, []) is before


@pytest.mark.parametrize(
    ("text", "code", "sentence", "remedy"),
    [
        (
            "seed", "setting-invalid", "--set 'seed' is not KEY=VALUE",
            "for example --set options.max-model-len=4096",
        ),
        (
            "=1", "setting-invalid", "--set '=1' is not KEY=VALUE",
            "for example --set options.max-model-len=4096",
        ),
        (
            "enigne.versions=x", "setting-invalid",
            "--set enigne.versions=x: unknown key 'enigne'; did you mean 'engine'?",
            "--set options.enigne.versions=... is for engine options",
        ),
        (
            "revision=abc", "setting-invalid",
            "--set revision=abc: unknown key 'revision'; did you mean 'snapshot.revision'?",
            "--set options.revision=... is for engine options",
        ),
        (
            "served-model-name=x", "setting-invalid",
            "--set served-model-name=x: unknown key 'served-model-name'; did you mean"
            " 'served_name'?",
            "--set options.served-model-name=... is for engine options",
        ),
        (
            "engine.version=1", "setting-invalid",
            "--set engine.version=1: unknown key 'version'; did you mean 'versions'?", "",
        ),
        (
            "snapshot.repo.owner=x", "setting-invalid",
            "--set snapshot.repo.owner=x: 'owner' has nothing to stand in", "",
        ),
        (
            "time=soon", "file-invalid",
            "--set time=soon: time: is 'soon' (expected a duration such as 2h, 90m, 1h30m, 2:00:00,"
            " 1-12:00:00, or a number of minutes)", "",
        ),
        (
            "gated={", "file-invalid",
            "--set gated={: gated: is '{' (expected true or false: whether the hub asks for an"
            " agreement before a download)", "",
        ),
        (
            "multimodal.limit_per_prompt.vide=1", "file-invalid",
            "--set multimodal.limit_per_prompt.vide=1: multimodal.limit_per_prompt.vide: is no key"
            " here (expected one of 'image', 'video', 'audio'); did you mean 'video'?", "",
        ),
        (
            "snapshot=null", "file-invalid",
            "--set snapshot=null: snapshot: is missing (expected which files the engine serves:"
            " a repository and one revision of it)", "",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be(text: str, code: str, sentence: str, remedy: str) -> None:
    with pytest.raises(HpcvlmError) as caught:
        setting(text)
    error = caught.value
    assert (error.code, error.sentence, error.remedy) == (code, sentence, remedy)


def test_common_engine_options_are_not_taken_for_misspelt_keys() -> None:
    """Names of `vllm serve` options that a key of the schema resembles a little."""
    names = [
        "gpu-memory-utilization",
        "tokenizer",
        "load-format",
        "quantization",
        "kv-cache-dtype",
        "seed",
        "dtype",
        "host",
        "tool-call-parser",
        "tensor-parallel-size",
        "max-num-seqs",
        "trust-remote-code",
        "hf-overrides",
        "enforce-eager",
        "block-size",
        "reasoning-parser",
        "enable-lora",
        "lora-modules",
        "limit-mm-per-prompt",
        "mm-processor-kwargs",
        "tokenizer-mode",
        "config-format",
        "code-revision",
        "compilation-config",
        "port",
    ]
    options = setting(*(f"{name}=1" for name in names)).spec.options
    assert options.keys() >= set(names)


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_setting_is_taken_or_refused(text: str) -> None:
    try:
        setting(text)
    except HpcvlmError as error:
        assert error.code in {"setting-invalid", "file-invalid"}


@given(st.text(max_size=30))
@settings(deadline=None)
def test_any_name_is_found_or_not(name: str) -> None:
    try:
        assert find_model(name, [shipped()]).spec.name in {"big-vlm", "small-vlm"}
    except HpcvlmError as error:
        assert error.code == "model-unknown"
