"""How long the memory arithmetic of one model takes, for every model of the catalog."""

from __future__ import annotations

import statistics
import time

from timing import Check, finish, options, table

from hpcvlm.catalog.load import Layer, Resolved, all_models, variants
from hpcvlm.engines.vllm_versions import known_versions
from hpcvlm.memory.gpus import find_gpu
from hpcvlm.plan.memory import estimate_options, memory_fit, model_shape
from hpcvlm.plan.options import serve_options
from hpcvlm.resources import shipped_models
from hpcvlm.system.files import FolderOfTexts

TARGET_MS = 50.0
GPUS = ("A100", "H100-80", "L40S")


def fit_once(model: Resolved, name: str) -> float:
    """Milliseconds from config.json to the verdict, with what would help where it does not fit."""
    start = time.perf_counter()
    spec = model.spec
    chosen = serve_options(spec, snapshot="", media_root="", tensor_parallel_size=1)
    version = spec.engine.preferred or known_versions()[-1]
    shape = model_shape(spec)
    memory_fit(spec, shape, find_gpu(name), 1, version, estimate_options(chosen))
    return (time.perf_counter() - start) * 1000


def main() -> None:
    """Measure and print."""
    arguments = options(__doc__, rounds=5).parse_args()
    models = all_models([Layer("shipped", FolderOfTexts(shipped_models()))])
    family = [one for model in models for one in (model, *variants(model))]
    served = [one for one in family if one.spec.config]
    fit_once(served[0], GPUS[0])  # loads what is loaded once
    medians = {
        f"{model.name} on {name}": statistics.median(
            fit_once(model, name) for _ in range(arguments.rounds)
        )
        for model in served
        for name in GPUS
    }
    slowest = sorted(medians, key=lambda what: -medians[what])[:5]
    rows = [(what, f"{medians[what]:.1f}") for what in slowest]
    rows.append((f"median of {len(medians)}", f"{statistics.median(medians.values()):.1f}"))
    checks = [Check("slowest fit, a fraction of 50 ms", medians[slowest[0]] / TARGET_MS, 1.0)]
    finish(checks, table(("MODEL AND GPU", "MS"), rows), medians, as_json=arguments.json)


if __name__ == "__main__":
    main()
