"""The command lines and the environment that images are read, made and checked with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Argv = tuple[str, ...]
APPTAINER_LIKE = ("apptainer", "singularity")

# Package metadata and PyTorch's own version.py: importing either package takes seconds, and vLLM
# wants a GPU.
FACTS_CODE = """\
import importlib.metadata as m, json, platform
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return ''
def built():
    try:
        found = {}
        exec(m.distribution('torch').locate_file('torch/version.py').read_text(), found)
        return found
    except Exception:
        return {}
torch = built()
print(json.dumps({
    'engine': version('ENGINE'), 'torch': version('torch'),
    'transformers': version('transformers'), 'python': platform.python_version(),
    'cuda': torch.get('cuda') or '', 'hip': torch.get('hip') or '',
    'architecture': platform.machine()}))
"""


def facts(engine: str, command: tuple[str, ...]) -> Argv:
    """Prints the facts of an image as JSON; for `parse_facts`.

    Args:
        engine: name of the engine's package.
        command: the engine's; Python is the one beside it, else the image's first.
    """
    folder, slash, _ = command[0].rpartition("/")
    return (f"{folder}{slash}python3", "-c", FACTS_CODE.replace("ENGINE", engine))


def verify(runtime: str, image: str) -> Argv:
    """Checks the signatures with the keys that are here; nobody is asked for others."""
    return (runtime, "verify", "--local", "--json", image)


def sign(runtime: str, image: str, key: int | None) -> Argv:
    """Adds a signature by a key of the runtime's own keyring, which asks for its passphrase."""
    chosen = () if key is None else ("--keyidx", str(key))
    return (runtime, "sign", *chosen, image)


def labels(runtime: str, image: str) -> Argv:
    """The labels of an image, as JSON."""
    if runtime in APPTAINER_LIKE:
        return (runtime, "inspect", "--json", "--labels", image)
    return (runtime, "image", "inspect", "--format={{json .Config.Labels}}", image)


def kept_image(runtime: str, image: str) -> Argv:
    """What docker or podman knows of one of its images, as JSON."""
    return (runtime, "image", "inspect", image)


def gpu_driver() -> Argv:
    """The version of NVIDIA's driver, once for each GPU."""
    return ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def variable(runtime: str, name: Literal["TMPDIR", "CACHEDIR"]) -> str:
    """``APPTAINER_TMPDIR`` and the like, by the runtime's name."""
    return f"{runtime.upper()}_{name}"


def build(
    runtime: str,
    image: str,
    source: str,
    *,
    arguments: Mapping[str, str] | None = None,
    fakeroot: bool = False,
    plain_http: bool = False,
) -> Argv:
    """Makes an image.

    Args:
        runtime: apptainer or singularity.
        image: the file to make.
        source: a definition file, a SIF file or an address such as ``docker://…``.
        arguments: of the definition file.
        fakeroot: whether to ask for it by name.
        plain_http: whether the registry speaks HTTP only.
    """
    flags = (*(("--fakeroot",) if fakeroot else ()), *(("--no-https",) if plain_http else ()))
    values = tuple(
        word
        for key, value in (arguments or {}).items()
        for word in ("--build-arg", f"{key}={value}")
    )
    return (runtime, "build", *flags, *values, image, source)


def pull(runtime: str, image: str, source: str, *, plain_http: bool = False) -> Argv:
    """Fetches a SIF file as it is: ``library://``, ``oras://``, ``https://``."""
    flags = ("--no-https",) if plain_http else ()
    return (runtime, "pull", *flags, image, source)
