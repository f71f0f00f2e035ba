"""The command lines that the doctor runs on the login node. None of them changes anything."""

from __future__ import annotations

from hpcvlm.site.schema import EngineInstall, SiteSpec
from hpcvlm.slurm.commands import Argv

# hpcvlm runs all but srun; submitit's Slurm executor refuses to start without that one.
SLURM_PROGRAMS = ("sbatch", "srun", "squeue", "scancel", "sinfo")
_APPTAINER_LIKE = ("apptainer", "singularity")
_VERSION_CODE = "import importlib.metadata as m; print(m.version('vllm'))"


def scontrol_ping() -> Argv:
    """Which controllers answer."""
    return ("scontrol", "ping")


def sacct_now() -> Argv:
    """The user's jobs of the last hour: whether the accounts answer at all."""
    return ("sacct", "--noheader", "--allocations", "--starttime=now-1hour", "--format=JobID")


def runtime_version(runtime: str) -> Argv:
    """The version of a container runtime."""
    return (runtime, "--version")


def runtime_build(runtime: str) -> Argv:
    """How Apptainer was built and where it is installed: ``NAME=VALUE`` lines."""
    return (runtime, "buildcfg")


def image_labels(runtime: str, image: str) -> Argv:
    """The labels of an image, as JSON."""
    if runtime in _APPTAINER_LIKE:
        return (runtime, "inspect", "--json", "--labels", image)
    return (runtime, "image", "inspect", "--format={{json .Config.Labels}}", image)


def container(site: SiteSpec, install: EngineInstall, *, gpus: bool) -> Argv:
    """What comes before a command to run it in an engine's image, as a job does.

    docker(1) documents that an empty ``--entrypoint`` resets the image's own.
    """
    image = install.image or ""
    binds = (*site.binds, *install.binds)
    if site.runtime in _APPTAINER_LIKE:
        flags = (site.gpu_flag,) if gpus and site.gpu_flag else ()
        mounts = tuple(word for bind in binds for word in ("--bind", bind_text(bind)))
        return (site.runtime, "exec", *flags, "--containall", "--no-home", *mounts, image)
    volumes = tuple(word for bind in binds for word in ("--volume", bind_text(bind)))
    devices: Argv = ()
    if gpus and site.gpu_flag == "--nv":
        docker = site.runtime == "docker"
        devices = ("--gpus", "all") if docker else ("--device", "nvidia.com/gpu=all")
    hardening = ("--pull=never", "--read-only", "--security-opt", "label=disable")
    return (site.runtime, "run", "--rm", *hardening, "--entrypoint=", *devices, *volumes, image)


def bind_text(bind: str) -> str:
    """``/source``, ``/source:/target`` or ``/source:/target:rw`` spelt out; read-only if unsaid."""
    source, _, rest = bind.partition(":")
    target, _, mode = rest.partition(":")
    return f"{source}:{target or source}:{mode or 'ro'}"


def engine_version(install: EngineInstall) -> Argv:
    """Prints the version of the engine that is installed, without importing it (or PyTorch).

    Python is the one beside the engine's command, else the image's first.
    """
    folder, slash, _ = install.command[0].rpartition("/")
    return (f"{folder}{slash}python3", "-c", _VERSION_CODE)


def quota() -> Argv:
    """The user's quotas on local and NFS file systems; -w keeps each on one line."""
    return ("quota", "-w")


def lustre_quota(user: str, folder: str) -> Argv:
    """The user's quota on a Lustre file system, without the heading."""
    return ("lfs", "quota", "-q", "-u", user, folder)
