"""The part of a new site file that Slurm cannot tell: containers, weights, folders, network."""

from __future__ import annotations

from hpcvlm.site.facts import Machine, SiteFacts
from hpcvlm.site.yaml_lines import comment, scalar

_PREFERRED = ("apptainer", "singularity", "podman", "docker")


def chosen_runtime(machine: Machine) -> str | None:
    """The container runtime on PATH to use: Apptainer before the others; None without one."""
    names = [runtime.name for runtime in machine.runtimes]
    return next((name for name in _PREFERRED if name in names), None)


def offered_runtime(machine: Machine) -> tuple[str, str] | None:
    """A runtime that only a module has: its name and the module, the last one listed."""
    for name in _PREFERRED:
        modules = [module for module in machine.runtime_modules if name in module.lower()]
        if modules:
            return name, modules[-1]
    return None


def suggestions(machine: Machine) -> list[str]:
    """Lines: keys where something was found, commented ones where an admin must say it."""
    return [
        *_runtime(machine),
        *_images(machine),
        *_caches(machine),
        *_folders(machine),
        *_network(machine),
    ]


def missing(facts: SiteFacts) -> tuple[str, ...]:
    """What an admin must still fill in, one sentence for each key."""
    machine = facts.machine
    wanted = []
    if chosen_runtime(machine) is None:
        offer = offered_runtime(machine)
        told = f"; the module {offer[1]} is taken for it" if offer else ""
        wanted.append(f"runtime: no container runtime is on PATH{told}")
    if not machine.images:
        wanted.append("image_folder or engines: no vllm-VERSION.sif was found")
    if not machine.hub_caches:
        wanted.append("hub_caches: neither HF_HUB_CACHE nor HF_HOME names a folder")
    unsaid = [kind.name for kind in facts.gpu_types if kind.memory is None]
    if unsaid:
        wanted.append(f"gpu_types: memory of {', '.join(unsaid)}, which no name says")
    if len(facts.accounts) > 1 and not facts.default_account:
        wanted.append("account: you have several, and no default")
    if not facts.usable:
        wanted.append("partition: none was found that could serve you")
    wanted.append("binds, media_root, cache_root, scratch_root, proxy: as this site needs them")
    return tuple(wanted)


def _runtime(machine: Machine) -> list[str]:
    found = [f"{one.name} ({one.version or 'version not told'})" for one in machine.runtimes]
    told = ", ".join(found) or "none"
    lines = comment(f"Container runtimes on this machine's PATH: {told}.")
    chosen = chosen_runtime(machine)
    offer = None if chosen else offered_runtime(machine)
    name = chosen or (offer[0] if offer else None)
    lines.append(f"runtime: {name}" if name else "# runtime: apptainer")
    lines += ["# gpu_flag: --nv    # --rocm for AMD GPUs"]
    if machine.runtime_modules:
        offered = ", ".join(machine.runtime_modules)
        lines += comment(f"{machine.module_system} offers: {offered}")
        if offer is not None:
            return [*lines, "modules:", f"  - {scalar(offer[1])}", ""]
    elif machine.module_system:
        lines.append(f"# {machine.module_system} is here; modules that a job must load first:")
    return [*lines, "# modules: [apptainer]", ""]


def _images(machine: Machine) -> list[str]:
    lines = ["# Images: vllm-VERSION.sif files in one folder, or each under 'engines'."]
    for folder, names in machine.images:
        lines += comment(f"{folder} has {', '.join(names)}")
    if machine.images:
        lines.append(f"image_folder: {scalar(machine.images[0][0])}")
    else:
        lines.append("# image_folder: /shared/containers")
    lines += [
        "# engines:",
        "#   - {name: vllm, version: 0.33.0, image: /shared/containers/vllm-0.33.0.sif}",
        "",
    ]
    return lines


def _caches(machine: Machine) -> list[str]:
    lines = ["# Hugging Face hub caches, searched in this order before each user's own."]
    if not machine.hub_caches:
        return [*lines, "# hub_caches: [/shared/models/huggingface/hub]", ""]
    lines.append("hub_caches:")
    for origin, folder in machine.hub_caches:
        lines += [*comment(origin, "  "), f"  - {scalar(folder)}"]
    return [*lines, ""]


def _folders(machine: Machine) -> list[str]:
    scratch = ", ".join(f"${name}" for name in machine.scratch)
    told = f"; set on this machine: {scratch}" if scratch else ""
    return [
        "# Folders: what every container must see, where file:// images may lie, where compile",
        f"# caches go, and temporary files on the nodes (variables are the job's own{told}).",
        "# binds: ['/shared/models:/shared/models:ro']",
        "# media_root: /shared/images",
        "# cache_root: ~/.cache/hpcvlm",
        "# scratch_root: $TMPDIR",
        "",
    ]


def _network(machine: Machine) -> list[str]:
    lines = ["# How compute nodes reach the outside, and whether others reach the engine."]
    for name, value in machine.proxies:
        lines += comment(f"{name} is {value} on this machine")
    return [
        *lines,
        "# proxy: {http: 'http://proxy.example.org:3128', https: 'http://proxy.example.org:3128'}",
        "# listen: loopback",
        "",
    ]
