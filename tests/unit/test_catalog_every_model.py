"""Every shipped model and variant on each of its GPU types: planned, rendered, looked over."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from hpcvlm.catalog.load import Layer, Resolved, TextFolder, all_models, find_model, variants
from hpcvlm.engines.vllm_versions import known_versions
from hpcvlm.memory.gpus import find_gpu
from hpcvlm.ops.context import Context
from hpcvlm.ops.models import validate_file
from hpcvlm.ops.prepare import materials
from hpcvlm.plan.build import build_plan
from hpcvlm.plan.model import LaunchRequest, PlanResult
from hpcvlm.render.script import render_job
from tests.command import ROOT
from tests.job_fixtures import site, surroundings

FOLDER = ROOT / "configs" / "models"
FILES = sorted(FOLDER.glob("*.yaml"))
LAYER = Layer("shipped", TextFolder({f.name: f.read_text(encoding="utf-8") for f in FILES}))
MODELS = all_models([LAYER])
FAMILIES = [one for model in MODELS for one in (model, *variants(model))]
# What a fact needs a source for; a key above covers those below it.
FACTS = (
    "licence", "gated", "snapshot.repo", "architecture", "parameters", "active_parameters",
    "weight_bytes", "precision", "context_length", "engine.versions", "custom_code",
    "parallelism.attention_heads", "multimodal.tokens_per_image", "config",
    "chat.template", "chat.tools", "chat.reasoning",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One model on one type of GPU, with the engine that its file prefers."""

    model: Resolved
    gpus: str
    version: str

    def __str__(self) -> str:
        return f"{self.model.name}-{self.gpus}"


def cases() -> Iterator[Case]:
    for model in FAMILIES:
        spec = model.spec
        if spec.unsupported is not None:
            continue
        wanted = SpecifierSet(spec.engine.versions)
        fitting = [version for version in known_versions() if wanted.contains(version)]
        version = spec.engine.preferred or fitting[-1]
        for kind, count in spec.parallelism.gpus.items():
            yield Case(model, str(count) if kind == "default" else f"{kind}:{count}", version)


CASES = list(cases())


def planned(case: Case) -> PlanResult:
    spec = case.model.spec
    text = f"engines: [{{version: {case.version}, image: /images/vllm.sif}}]\n"
    request = LaunchRequest(case.model.name, gpus=case.gpus)
    found = surroundings(images_on_disk=frozenset({"/images/vllm.sif"}), model=case.model.name)
    return build_plan(request, spec, site(text), found)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_valid_with_its_variants(file: Path) -> None:
    validate_file(file, Context())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_can_be_planned_and_rendered_without_a_problem(case: Case) -> None:
    result = planned(case)
    # Code of a repository is nobody's to review here: whoever launches the model must have.
    code = [issue.code for issue in result.issues if issue.code == "remote-code"]
    assert len(code) == bool(case.model.spec.custom_code)
    assert [issue.sentence for issue in result.issues if issue.code not in code] == []
    # A flag is written for the version that the file prefers: nothing has to be translated.
    assert [note for note in result.notes if "became" in note] == []
    script = render_job(result.plan, materials()).script
    assert f"vllm {case.version}" in script


@pytest.mark.parametrize("case", [c for c in CASES if ":" in c.gpus], ids=str)
def test_it_fits_on_the_gpus_that_its_file_gives(case: Case) -> None:
    assert find_gpu(case.gpus.partition(":")[0]), "not a type that hpcvlm knows"
    memory = planned(case).memory
    assert memory.fits is not False
    if case.model.spec.weight_bytes and case.model.spec.config and not memory.unknown:
        assert memory.fits is True


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.spec.name)
def test_no_fact_is_without_a_source(model: Resolved) -> None:
    if model.spec.name == "tiny-vlm":
        pytest.skip("it is made here; its own files say what it is")
    said = {key for key, layer in model.sources.items() if layer != "default"}
    sources = model.spec.sources
    unsourced = [
        fact
        for fact in FACTS
        if any(key == fact or key.startswith(f"{fact}.") for key in said)
        and not any(
            key == fact or fact.startswith(f"{key}.") or key.startswith(f"{fact}.")
            for key in sources
        )
    ]
    assert unsourced == []
    for name in model.spec.variants:
        assert any(key.startswith(f"variants.{name}") or key == "variants" for key in sources)


def test_no_name_leads_to_two_models() -> None:
    owners: dict[str, set[str]] = {}
    for model in MODELS:
        own = (model.spec.name, *model.spec.aliases, model.spec.snapshot.repo)
        for name in own:
            owners.setdefault(name.casefold(), set()).add(model.name)
        for one in variants(model):
            variant = model.spec.variants[one.variant or ""]
            names = [*variant.aliases]
            if one.spec.snapshot.repo != model.spec.snapshot.repo:
                names.append(one.spec.snapshot.repo)
            for name in names:
                owners.setdefault(name.casefold(), set()).add(one.name)
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.spec.name)
def test_every_name_is_found(model: Resolved) -> None:
    for name in (model.spec.name, *model.spec.aliases, model.spec.snapshot.repo):
        assert find_model(name, [LAYER]).spec.name == model.spec.name


def test_what_is_said_to_do_instead_is_there_and_can_be_served() -> None:
    by_name = {model.spec.name: model.spec for model in MODELS}
    for spec in by_name.values():
        if spec.unsupported is not None:
            assert spec.unsupported.instead
            for name in spec.unsupported.instead:
                assert by_name[name].unsupported is None


# What may differ between two scripts of one model without ShellCheck seeing another script.
NUMBERS = re.compile(r"#SBATCH --(gpus-per-node|cpus-per-task)=\S+|    \d+")


def rendered(case: Case) -> str:
    return render_job(planned(case).plan, materials()).script


def seen_as_another(script: str, first: str) -> bool:
    """Whether scripts differ in more than numbers of GPUs."""
    lines, others = script.splitlines(), first.splitlines()
    if len(lines) != len(others):
        return True
    pairs = zip(lines, others, strict=True)
    return any(a != b and not (NUMBERS.fullmatch(a) and NUMBERS.fullmatch(b)) for a, b in pairs)


@pytest.mark.slow
def test_shellcheck_has_nothing_to_say_of_any_script(tmp_path: Path) -> None:
    firsts: dict[str, str] = {}
    names = []
    for number, case in enumerate(CASES):
        script = rendered(case)
        if not seen_as_another(script, firsts.setdefault(case.model.name, "")):
            continue
        firsts[case.model.name] = script
        path = tmp_path / f"{number}.sbatch"
        path.write_text(script, encoding="utf-8")
        names.append(path.name)
    assert len(names) >= len(FAMILIES) - 1
    done = subprocess.run(
        ["xargs", "-P", "2", "-n", "20", "shellcheck"],
        input="\n".join(names),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[:4000]
