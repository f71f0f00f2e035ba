"""Judges container runtimes and images, on the login node and on a compute node."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from hpcvlm.doctor.model import Answer, Check, Question
from hpcvlm.site.schema import EngineInstall

PART = "containers"
_APPTAINER_LIKE = ("apptainer", "singularity")
# A SIF file begins with a 32-byte launch line, then this (github.com/apptainer/sif, sif.go).
SIF_MAGIC_AT = 32
SIF_MAGIC = b"SIF_MAGIC"
VERSION_LABEL = "org.hpcvlm.version"


@dataclass(frozen=True, slots=True)
class Namespaces:
    """What the kernel lets ordinary users do; None where it has no such switch.

    Attributes:
        most: /proc/sys/user/max_user_namespaces.
        clone: /proc/sys/kernel/unprivileged_userns_clone (Debian's kernels).
        apparmor: /proc/sys/kernel/apparmor_restrict_unprivileged_userns (Ubuntu's).
    """

    most: int | None = None
    clone: int | None = None
    apparmor: int | None = None


def judge_runtime(question: Question, runtime: str, version: Answer, modules: str = "") -> Check:
    """Whether the container runtime is there, and its version.

    Args:
        question: what is answered.
        runtime: the site's ``runtime``.
        version: what ``RUNTIME --version`` said.
        modules: modules that a job loads, which may bring it.
    """
    if runtime == "none":
        return question.skipped("the site's engines need no container")
    if version.missing:
        if modules:
            return question.unknown(
                f"{runtime} is not on PATH; jobs load {modules} first",
                "hpcvlm doctor --on-node looks there",
            )
        return question.failed(
            f"there is no {runtime} command",
            f"install {runtime}, name its module under 'modules:', or set 'runtime:' in site.yaml",
        )
    if version.code != 0:
        return question.failed(
            f"{runtime} --version failed: {version.said}", f"run {runtime} --version"
        )
    return question.ok(version.stdout.strip() or version.said)


def is_setuid(buildcfg: Answer) -> bool | None:
    """Whether Apptainer's setuid helper is installed; None when it does not say."""
    match = re.search(r"^\w+_SUID_INSTALL=(\d)", buildcfg.stdout, re.MULTILINE)
    return None if match is None else match[1] == "1"


def judge_namespaces(
    question: Question, runtime: str, spaces: Namespaces, setuid: bool | None
) -> Check:
    """Whether ordinary users may make user namespaces, which containers without setuid need."""
    if runtime == "none":
        return question.skipped("the site's engines need no container")
    shut = _shut(spaces)
    if not shut:
        most = f"max_user_namespaces {spaces.most}" if spaces.most is not None else "no limit"
        return question.ok(f"users may make them ({most})")
    if setuid and runtime in _APPTAINER_LIKE:
        return question.ok(f"not for users ({shut}); {runtime} is installed setuid and needs none")
    remedy = f"sysctl {shut.split(' = ')[0]} (by an admin), or a setuid {runtime}"
    if "apparmor" in shut:
        # As github.com/sylabs/singularity/pull/2853 adds for Ubuntu 24.04.
        return question.warning(
            f"{shut}: only programs with an AppArmor profile may make them",
            f"if images do not start: an AppArmor profile with 'userns,' for {runtime}",
        )
    if setuid is None and runtime in _APPTAINER_LIKE:
        return question.warning(f"not for users ({shut}), and {runtime} may need them", remedy)
    return question.failed(f"not for users ({shut}), and {runtime} needs them", remedy)


def _shut(spaces: Namespaces) -> str:
    if spaces.most == 0:
        return "user.max_user_namespaces = 0"
    if spaces.clone == 0:
        return "kernel.unprivileged_userns_clone = 0"
    if spaces.apparmor:
        return "kernel.apparmor_restrict_unprivileged_userns = 1"
    return ""


def judge_fuse(
    question: Question, runtime: str, *, device: bool, helper: str, setuid: bool | None
) -> Check:
    """Whether an image file can be mounted without root: /dev/fuse and a squashfs helper.

    Args:
        question: what is answered.
        runtime: the site's ``runtime``.
        device: whether /dev/fuse can be opened for reading and writing.
        helper: path of squashfuse_ll or squashfuse; empty when there is none.
        setuid: as `is_setuid`; a setuid runtime mounts by the kernel.
    """
    if runtime == "none":
        return question.skipped("the site's engines need no container")
    if runtime not in _APPTAINER_LIKE:
        return question.skipped(f"{runtime} does not mount image files")
    if setuid:
        return question.ok(f"not needed: {runtime} is installed setuid")
    if not device:
        # Apptainer 1.4.5 then ends with "failed to open /dev/fuse" for everybody but root.
        return question.warning(
            "/dev/fuse cannot be opened: images may not start",
            "ask the admins for a /dev/fuse of mode 0666, or export APPTAINER_UNSQUASH=1, which "
            "unpacks the whole image at every start",
        )
    if not helper:
        return question.warning(
            f"there is no squashfuse: {runtime} unpacks the whole image at every start",
            "ask the admins for squashfuse",
        )
    return question.ok(f"/dev/fuse, {helper}")


def image_question(install: EngineInstall) -> Question:
    """The check of one engine's image."""
    return Question(f"image:{install.version}", PART, f"{install.name} {install.version}")


@dataclass(frozen=True, slots=True)
class ImageSeen:
    """What a look at an image file showed.

    Attributes:
        problem: why it could not be read, in the system's words; empty when it could.
        missing: whether the problem is that there is none.
        size: bytes.
        is_sif: whether it is a SIF file.
        is_folder: whether it is a sandbox folder.
        labels: what the runtime's inspect command answered; None when it was not asked.
        version: what the engine in it said of its version; None when it was not asked.
    """

    problem: str = ""
    missing: bool = False
    size: int = 0
    is_sif: bool = False
    is_folder: bool = False
    labels: Answer | None = None
    version: Answer | None = None


def judge_image(install: EngineInstall, runtime: str, seen: ImageSeen) -> Check:
    """Whether an image exists, is whole, and holds the version that the site file says."""
    question = image_question(install)
    image = install.image
    if image is None:
        return question.skipped(f"no image: it runs {' '.join(install.command)}")
    build = f"hpcvlm containers build {install.version} --output {shlex.quote(image)} --force"
    if seen.problem:
        # An image that is there and closed needs other rights, not another build.
        remedy = build.removesuffix(" --force") if seen.missing else f"ls -l {image}"
        return question.failed(f"{image}: {seen.problem}", remedy)
    if runtime in _APPTAINER_LIKE and not (seen.is_sif or seen.is_folder):
        return question.failed(f"{image} is not a SIF file", build)
    if seen.labels is not None and seen.labels.code != 0 and not seen.labels.missing:
        return question.failed(f"{image}: {seen.labels.said}", build)
    if seen.version is not None:
        return judge_version(question, install, seen.version)
    return _labelled(question, install, read_labels(seen.labels).get(VERSION_LABEL, ""))


def judge_version(question: Question, install: EngineInstall, answer: Answer) -> Check:
    """Whether an engine that was asked for its version has the one that the site file says."""
    where = install.image or install.command[0]
    if answer.code != 0:
        return question.failed(
            f"{where} does not tell the version of its {install.name}: {answer.said}",
            "look for missing 'binds:' or a wrong 'command:' of this engine in the site file",
        )
    return _compared(question, install, answer.stdout.strip(), "asked inside")


def _labelled(question: Question, install: EngineInstall, found: str) -> Check:
    if not found:
        image = install.image
        return question.ok(f"{image}; no label tells the version: --deep or --on-node asks inside")
    return _compared(question, install, found, f"label {VERSION_LABEL}")


def _compared(question: Question, install: EngineInstall, found: str, how: str) -> Check:
    holds = f"{install.image or install.command[0]} holds {install.name} {found} ({how})"
    if same_version(found, install.version):
        return question.ok(holds)
    return question.failed(
        f"{holds}, the site file says {install.version}",
        f"set 'version: {found}' for this image under 'engines:' in the site file",
    )


def same_version(found: str, said: str) -> bool:
    """Whether two versions are the same release: ``0.32.0+cpu`` is ``0.32.0``."""
    return found.partition("+")[0] == said.partition("+")[0]


def read_labels(answer: Answer | None) -> Mapping[str, str]:
    """The labels in what ``inspect --json --labels`` (or docker's inspect) printed."""
    if answer is None or answer.code != 0:
        return {}
    try:
        data = json.loads(answer.stdout)
    except ValueError:
        return {}
    for key in ("data", "attributes", "labels"):
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping):
        return {}
    return {str(name): str(value) for name, value in data.items()}
