"""From what the user typed to a plan: finds model, site, cluster, snapshot and engine."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hpcvlm.catalog.load import Resolved, apply_settings, find_model
from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.catalog.variants import SEPARATOR
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.local_engine import find_local_engine
from hpcvlm.ops.served_snapshot import served_snapshot
from hpcvlm.ops.site_files import model_layers, site_of
from hpcvlm.plan.build import Surroundings, build_plan, check_request
from hpcvlm.plan.chain import generation_name, job_count
from hpcvlm.plan.engine import candidate_images
from hpcvlm.plan.model import LaunchPlan, LaunchRequest, PlanResult
from hpcvlm.render.script import Materials
from hpcvlm.resources import data_root
from hpcvlm.site.cluster import Cluster, parse_sinfo
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm import commands

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,47}")
_SUFFIX_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_SUFFIX_LETTERS = 4


class Prepared(NamedTuple):
    """A plan, and what it was made from, so that its successors can be planned as well.

    Attributes:
        result: the plan of the first job, with every issue.
        request: what the user typed, with the media root as the engine will see it.
        spec: the model.
        site: the site.
        found: what there is outside.
    """

    result: PlanResult
    request: LaunchRequest
    spec: ModelSpec
    site: SiteSpec
    found: Surroundings

    def generation(self, number: int) -> LaunchPlan:
        """The plan of the job of that generation; nobody is asked again."""
        name, folder = self.found.name, Path(self.found.folder)
        found = replace(
            self.found,
            name=generation_name(name, number),
            folder=str(folder.with_name(generation_name(name, number))),
            endpoint=name,
            generation=number,
            predecessor=str(folder.with_name(generation_name(name, number - 1))),
        )
        return build_plan(self.request, self.spec, self.site, found).plan

    def successors(self) -> tuple[LaunchPlan, ...]:
        """The plans of all jobs that take over from the first; none where it is not kept."""
        plan = self.result.plan
        if plan.executor != "slurm":
            return ()
        count = job_count(plan.keep_s, plan.time_limit_s, plan.overlap_s)
        return tuple(self.generation(number) for number in range(2, count + 1))


def prepare(request: LaunchRequest, ctx: Context, site: SiteSpec | None = None) -> PlanResult:
    """Plan a launch; nothing is changed anywhere.

    Args:
        request: what the user typed.
        ctx: the outside.
        site: used instead of the site's files.

    Raises:
        HpcvlmError: what cannot even be planned; problems of a plan are in its issues.
    """
    return prepare_all(request, ctx, site).result


def prepare_all(request: LaunchRequest, ctx: Context, site: SiteSpec | None = None) -> Prepared:
    """As `prepare`, with all that the plans of successors need.

    Raises:
        HpcvlmError: as `prepare`.
    """
    site_sources: dict[str, str] = {}
    of_model, of_site = _by_subject(request.settings)
    if site is None:
        site, site_sources = site_of(ctx, of_site)
    resolved = apply_settings(find_model(request.model, model_layers(ctx)), of_model)
    spec = resolved.spec
    # What cannot be read at all is told before anybody else is asked.
    name = _name(request, resolved.name)
    typed, request = request.model, _with_real_media_root(request)
    site = _with_real_media_roots(site)
    check_request(request, spec)
    executor, cluster = _executor(request, site, ctx)
    site = _with_engine(site, spec, executor, ctx)
    served = served_snapshot(spec, site, ctx)
    on_disk = served.on_disk
    images = candidate_images(spec, site, request.engine_version)
    found = Surroundings(
        executor=executor,
        name=name,
        folder=str(ctx.settings.jobs / name),
        cluster=cluster,
        snapshot=served.planned,
        snapshot_problems=served.problems,
        attention_heads=on_disk.attention_heads if on_disk else None,
        images_on_disk=frozenset(image for image in images if Path(image).is_file()),
        cache_root=_expand(site.cache_root) or str(ctx.settings.state / "cache"),
        sources={
            **{f"site.{key}": source for key, source in site_sources.items()},
            **{f"model.{key}": source for key, source in resolved.sources.items()},
        },
        model=resolved.name,
        config=on_disk.config if on_disk else None,
        weight_bytes=on_disk.weight_bytes if on_disk and not served.problems else None,
        preprocessor=on_disk.preprocessor if on_disk else None,
        snapshot_on_disk=on_disk is not None,
        approvals=served.approvals,
        files=served.files,
    )
    result = build_plan(request, spec, site, found)
    if site.images.signed_by:
        from hpcvlm.ops.containers_verify import image_issues

        engine = result.plan.engine
        signed = image_issues(engine.image, engine.version, site, ctx)
        result = replace(result, issues=(*result.issues, *signed))
    result = replace(result, notes=(*_meant(typed, resolved), *result.notes))
    return Prepared(result, request, spec, site, found)


def _meant(typed: str, resolved: Resolved) -> tuple[str, ...]:
    """What a name like a repository's, which is none of this model, was taken for."""
    repo = resolved.spec.snapshot.repo
    if "/" not in typed or typed.casefold() == repo.casefold():
        return ()
    return (f"{typed} is taken for {resolved.name}, whose repository is {repo}",)


def materials() -> Materials:
    """The shipped texts that every job is made of."""
    folder = data_root() / "templates" / "sbatch"
    parts = ((path.name, path.read_text(encoding="utf-8")) for path in folder.glob("*.sh.j2"))
    guard = Path(__file__).resolve().parent.parent / "engines" / "vllm_guard.py"
    return Materials(
        (folder / "single_node.sbatch.j2").read_text(encoding="utf-8"),
        guard.read_text(encoding="utf-8"),
        (folder / "picture.png").read_bytes(),
        tuple(sorted(parts)),
    )


def _by_subject(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """``--set site.KEY=VALUE`` is about the site; every other setting is about the model."""
    prefix = "site."
    of_site = [text.removeprefix(prefix) for text in settings if text.startswith(prefix)]
    return [text for text in settings if not text.startswith(prefix)], of_site


def _executor(request: LaunchRequest, site: SiteSpec, ctx: Context) -> tuple[str, Cluster | None]:
    """Slurm where there is one, else this machine; what was asked for is never replaced.

    A Slurm that is configured here but does not answer is an error: the job of a cluster must not
    start on its login node because the controller is away for a minute.
    """
    asked = request.executor or site.executor
    if asked == "local":
        return "local", None
    if asked == "auto" and shutil.which("sbatch", path=ctx.environment.get("PATH")) is None:
        return "local", None
    environment = commands.query_environment(ctx.environment)
    done = ctx.runner(commands.sinfo(), env=environment, timeout_s=30.0)
    try:
        return "slurm", parse_sinfo(done.code, done.stdout, done.stderr)
    except HpcvlmError as error:
        if asked == "auto" and commands.is_not_configured(done.stderr):
            return "local", None
        here = "hpcvlm launch --executor local runs it on this machine instead"
        if not commands.is_not_configured(done.stderr):
            here = f"the same command again, once Slurm answers; or {here}"
        raise HpcvlmError(error.code, error.sentence, here, error.details) from None


def _with_real_media_root(request: LaunchRequest) -> LaunchRequest:
    """The media root as the engine will see it: absolute, links followed."""
    if request.media_root is None:
        return request
    folder = Path(request.media_root).expanduser()
    if not folder.is_dir():
        raise HpcvlmError(
            "option-invalid",
            f"--media-root {request.media_root} is not a folder",
            "name a folder that the compute nodes see, too",
        )
    return replace(request, media_root=str(folder.resolve()))


def _with_real_media_roots(site: SiteSpec) -> SiteSpec:
    """The folders that a media root may lie in, so that both sides are compared as they are."""
    real = tuple(str(Path(root).expanduser().resolve()) for root in site.media_roots)
    return site.model_copy(update={"media_roots": real}) if real else site


def _with_engine(site: SiteSpec, spec: ModelSpec, executor: str, ctx: Context) -> SiteSpec:
    """A site whose file names no engine: this machine's own vllm, or the default image folder."""
    if site.engines or site.image_folder:
        return site
    if executor == "local" and (install := find_local_engine(spec.engine.name, ctx)) is not None:
        return site.model_copy(update={"runtime": "none", "engines": (install,)})
    return site.model_copy(update={"image_folder": str(ctx.settings.state / "containers")})


def _name(request: LaunchRequest, model: str) -> str:
    if request.name is None:
        letters = "".join(secrets.choice(_SUFFIX_ALPHABET) for _ in range(_SUFFIX_LETTERS))
        return f"{model[:40]}-{letters}".replace("_", "-").replace(SEPARATOR, "-")
    if not _NAME.fullmatch(request.name):
        raise HpcvlmError(
            "name-invalid",
            f"--name {request.name!r} is not a name",
            "up to 48 small letters, digits, dots and hyphens, beginning with a letter or digit",
        )
    return request.name


def _expand(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser())
