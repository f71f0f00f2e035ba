"""The engine's environment: hpcvlm's own, the site's, the engine's, the model's."""

from __future__ import annotations

from hpcvlm.catalog.schema import ModelSpec
from hpcvlm.engines import vllm
from hpcvlm.plan.binds import engine_environment
from hpcvlm.plan.model import PlannedEngine
from hpcvlm.plan.safety import media_environment
from hpcvlm.plan.sources import Sources
from hpcvlm.site.schema import SiteSpec
from hpcvlm.slurm.time import parse_duration


def start_timeout_s(spec: ModelSpec) -> int:
    """Seconds that the engine may take from the allocation to ready."""
    return parse_duration(spec.start_timeout, "start_timeout")


def engine_variables(
    spec: ModelSpec,
    site: SiteSpec,
    engine: PlannedEngine,
    *,
    folder: str,
    cache: str,
    sources: Sources,
) -> dict[str, str]:
    """Every variable; what the model says counts most, then the engine, the site, hpcvlm.

    Args:
        spec: the model.
        site: the site.
        engine: the engine that was chosen.
        folder: job folder, absolute.
        cache: the engine's private cache.
        sources: notes where each variable is from.
    """
    layers = {
        "hpcvlm": vllm.environment(
            cache=cache,
            payloads=f"{folder}/payloads",
            key_file=f"{folder}/key",
            start_timeout_s=start_timeout_s(spec),
        )
        | media_environment(site, engine.version),
        "site.proxy": _proxies(site),
        "site.environment": site.environment,
        "site.engines": engine_environment(site, engine),
        "model.environment": spec.environment,
    }
    environment: dict[str, str] = {}
    for place, values in layers.items():
        for name, value in values.items():
            # The guard is found through it, so that its folder stays in front.
            joined = name == "PYTHONPATH" and name in environment
            environment[name] = f"{environment[name]}:{value}" if joined else value
            exact = f"{place}.{name}" if place.endswith("environment") else place
            sources.say(f"environment {name}", exact)
    return environment


def _proxies(site: SiteSpec) -> dict[str, str]:
    """Both spellings: aiohttp reads the small letters, some programs only the capitals."""
    proxy = site.proxy
    if not proxy.http and not proxy.https and not proxy.no_proxy:
        return {}
    # The engine talks to itself, and the job's own checks to the engine.
    direct = ",".join(("localhost", "127.0.0.1", *proxy.no_proxy))
    values = {"http_proxy": proxy.http, "https_proxy": proxy.https, "no_proxy": direct}
    return {
        spelt: value for name, value in values.items() if value for spelt in (name, name.upper())
    }
