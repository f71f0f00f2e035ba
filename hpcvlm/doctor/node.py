"""Judges what the node part saw on a compute node (templates/sbatch/doctor_node.sh)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpcvlm.doctor import containers, gpu, mounts, storage
from hpcvlm.doctor.model import Answer, Check, Question, size
from hpcvlm.doctor.network import judge_network
from hpcvlm.doctor.seen import Seen, byte_count, code_and_words, number, padded, word
from hpcvlm.site.schema import EngineInstall, GpuType, SiteSpec

PART = "node"
JOB = Question("node-job", PART, "job")
SHARED = Question("node-shared", PART, "shared folder")
CLOCK = Question("node-clock", PART, "clocks")
FILE_CLOCK = Question("node-file-clock", PART, "file times")
TOOLS = Question("node-tools", PART, "programs")
MODULES = Question("node-modules", PART, "modules")
GPUS = Question("node-gpus", PART, "GPUs")
DRIVER = Question("node-driver", PART, "GPU driver")
RUNTIME = Question("node-runtime", PART, "container runtime")
NAMESPACES = Question("node-userns", PART, "user namespaces")
FUSE = Question("node-fuse", PART, "FUSE")
MEMORY = Question("node-memory", PART, "memory of the job")
MEMLOCK = Question("node-memlock", PART, "locked memory")
SHM = Question("node-shm", PART, "shared memory")
SCRATCH = Question("node-scratch", PART, "scratch")

SLOW_SHARING_S = 5.0
_NOT_FOUND, _TIMED_OUT = "127", "124"  # as timeout(1) and a shell give them
_HUGE = 1 << 58  # a cgroup without a limit shows about 2^63


@dataclass(frozen=True, slots=True)
class Login:
    """What the login node contributes.

    Attributes:
        site: the site.
        token: what it wrote for the node to read.
        gpus: how many the job asked for.
        gpu_type: their type in the site file, and what that says of it.
        installs: the engines that the node was told to start.
        versions: of every vLLM of the site.
        weights: folders whose file system matters for reading weights.
        token_back: whether the node's own file was seen here.
    """

    site: SiteSpec
    token: str
    gpus: int
    gpu_type: tuple[str, GpuType] | None
    installs: Sequence[EngineInstall]
    versions: Sequence[str]
    weights: Sequence[str]
    token_back: bool


def judge_node(seen: Seen, login: Login) -> list[Check]:
    """Every check of the node part but the job's own and its reach."""
    return [
        _shared(seen, login),
        *_clocks(seen),
        *_programs(seen, login),
        *_gpus(seen, login),
        *_containers(seen, login),
        *_folders(seen, login),
        _memory(seen),
        _memlock(seen),
        judge_network(seen),
    ]


def _shared(seen: Seen, login: Login) -> Check:
    token = word(seen, "token", 0)
    if token != login.token:
        return SHARED.failed(
            "the node does not see the file that was written here",
            "set HPCVLM_STATE to a folder that login and compute nodes share",
        )
    times = _handshake(seen)
    if not login.token_back or times is None:
        return SHARED.failed(
            "the node reads what is written here, but its answer did not come back within 60 s",
            "set HPCVLM_STATE to a folder on another file system",
        )
    there, _, back = times
    took = back - there
    evidence = f"written here and read there, and back, in {took:.1f} s"
    if took > SLOW_SHARING_S:
        return SHARED.warning(
            f"{evidence}: a job's state is seen late",
            "set HPCVLM_STATE to a file system that caches names for a shorter time",
        )
    return SHARED.ok(evidence)


def _handshake(seen: Seen) -> tuple[float, float, float] | None:
    """The node's clock at its hello, the login node's at its answer, the node's when it saw it."""
    words = (seen.get("handshake") or [()])[0]
    numbers = [number(word) for word in words]
    if len(numbers) != 3 or any(number is None for number in numbers):  # noqa: PLR2004
        return None
    hello, answer, back = (number or 0.0 for number in numbers)
    return hello, answer, back


def _clocks(seen: Seen) -> list[Check]:
    """As NTP does: the login node's one moment lies between two moments of the node."""
    checks = []
    times = _handshake(seen)
    if times is None:
        checks.append(CLOCK.unknown("the two nodes did not exchange the time"))
    else:
        hello, answer, back = times
        offset, error = (hello + back) / 2 - answer, (back - hello) / 2
        checks.append(
            storage.clock_check(CLOCK, offset, error, "the node's clock", "the login node's")
        )
    mtime, node_time = (number(word(seen, "file-clock", i)) for i in (0, 1))
    if mtime is None or node_time is None:
        checks.append(FILE_CLOCK.unknown("the node could not read a file's time"))
    else:
        offset = mtime - node_time
        checks.append(
            storage.clock_check(
                FILE_CLOCK, offset + 0.5, 1.0, "the file system's clock", "the node's"
            )
        )
    return checks


def _programs(seen: Seen, login: Login) -> list[Check]:
    bash, curl = word(seen, "bash", 0), word(seen, "curl", 0)
    lacking = [words[0] for words in seen.get("lacking", ()) if words]
    if not curl:
        lacking.append("curl")
    if lacking:
        check = TOOLS.failed(
            f"not on the node: {', '.join(lacking)}", "ask the admins to install it"
        )
    else:
        check = TOOLS.ok(f"bash {bash}, {' '.join(curl.split()[:2])}")
    if not login.site.modules:
        return [check]
    missing = [words for words in seen.get("module", ()) if words]
    if missing:
        name, *said = missing[0]
        return [
            check,
            MODULES.failed(
                f"module load {name} failed: {' '.join(said)}",
                "correct 'modules:' in the site file (module avail lists them)",
            ),
        ]
    return [check, MODULES.ok(", ".join(login.site.modules))]


def _gpus(seen: Seen, login: Login) -> list[Check]:
    if login.gpus == 0:
        return [question.skipped("the job asked for no GPU") for question in (GPUS, DRIVER)]
    if login.site.gpu_flag == "--rocm":
        return [question.skipped("only nvidia-smi is asked") for question in (GPUS, DRIVER)]
    code, said = code_and_words(seen, "nvidia-smi")
    if code == int(_NOT_FOUND):
        return [
            GPUS.failed(
                "there is no nvidia-smi on the node", "tell the admins, or try --partition"
            ),
            DRIVER.skipped("there is no nvidia-smi on the node"),
        ]
    if code != 0:
        return [
            GPUS.failed(f"nvidia-smi failed: {said}", "tell the admins"),
            DRIVER.skipped("nvidia-smi failed"),
        ]
    found = [gpu.parse_gpu(words[0]) for words in seen.get("gpu", ()) if words]
    gpus = [one for one in found if one is not None]
    if not gpus:
        return [
            GPUS.failed(f"nvidia-smi shows no GPU: {said}", "tell the admins"),
            DRIVER.skipped("nvidia-smi shows no GPU"),
        ]
    name, known = login.gpu_type or (None, None)
    in_images = any(install.image for install in login.installs)
    return [
        gpu.judge_gpus(GPUS, gpus, login.gpus, name, known),
        gpu.judge_driver(DRIVER, gpus, login.versions, in_images=in_images),
    ]


def _containers(seen: Seen, login: Login) -> list[Check]:
    runtime = login.site.runtime
    code, said = code_and_words(seen, "runtime")
    buildcfg = Answer(0, word(seen, "buildcfg", 0) + "\n")
    setuid = containers.is_setuid(buildcfg)
    switches = [number(word(seen, "user-namespaces", i)) for i in range(3)]
    spaces = containers.Namespaces(*(None if n is None else int(n) for n in switches))
    checks = [
        containers.judge_runtime(RUNTIME, runtime, Answer(code, said)),
        containers.judge_namespaces(NAMESPACES, runtime, spaces, setuid),
        containers.judge_fuse(
            FUSE,
            runtime,
            device=word(seen, "fuse", 0) == "yes",
            helper=word(seen, "squashfuse", 0),
            setuid=setuid,
        ),
    ]
    return checks + [_engine(seen, install) for install in login.installs]


def _engine(seen: Seen, install: EngineInstall) -> Check:
    """Whether one engine starts on the node, and its version."""
    question = Question(
        f"node-image:{install.version}", PART, f"{install.name} {install.version} starts"
    )
    _, code, begun, ended, said, _ = padded(_line_of(seen, "image", install))
    if code == "missing":
        return question.failed(
            f"{install.image} cannot be read on the node",
            "put it on a file system that all nodes share, or correct the site file",
        )
    if code == "late":
        return question.unknown("there was no time left for it", "hpcvlm doctor --only node-image")
    if code not in {"", "0"}:
        said = "no answer within 90 s" if code == _TIMED_OUT else said or f"exit code {code}"
        return question.failed(
            f"{install.image} does not start: {said}",
            "the checks of runtime, user namespaces and FUSE above may tell why",
        )
    times = number(begun), number(ended)
    took = ""
    if times[0] is not None and times[1] is not None:
        took = f"started in {times[1] - times[0]:.1f} s; "
    _, code, told, *_ = padded(_line_of(seen, "engine", install))
    if not code:
        return question.unknown(f"{took}it was not asked for its version")
    answer = Answer(0, told) if code == "0" else Answer(1, "", told)
    check = containers.judge_version(question, install, answer)
    return replace(check, evidence=took + check.evidence)


def _line_of(seen: Seen, key: str, install: EngineInstall) -> tuple[str, ...]:
    lines = seen.get(key, ())
    return next((words for words in lines if words[:1] == (install.version,)), ())


def _folders(seen: Seen, login: Login) -> list[Check]:
    checks = []
    for words in seen.get("shm", ()):
        _, there, _, *room = padded(words)
        total, free = (byte_count(room, i) for i in (1, 2))
        checks.append(storage.judge_shm(SHM, total if there == "yes" else None, free))
    for words in seen.get("scratch", ()):
        path, _, writable, *room = padded(words)
        named = word(seen, "scratch-from", 0) or "default"
        checks.append(
            storage.judge_scratch(
                SCRATCH, path, writable=writable == "yes", free=byte_count(room, 2), named=named
            )
        )
    checks += [check for words in seen.get("folder", ()) for check in _folder(padded(words), login)]
    checks += [_engine_folder(padded(words)) for words in seen.get("engine-folder", ())]
    return checks


def _folder(words: tuple[str, ...], login: Login) -> list[Check]:
    path, there, _, *room = words
    question = Question(f"node-folder:{path}", PART, "folder")
    if there != "yes":
        return [question.failed(_not_there(path, there), "name a folder that all nodes share")]
    checks = [question.ok(f"{path} is there ({room[0] or 'unknown file system'})")]
    if path in login.weights and room[0]:
        weights = Question(f"node-filesystem:{path}", PART, "weights on")
        checks.append(mounts.judge_weights_on(weights, path, room[0], login.versions))
    return checks


def _engine_folder(words: tuple[str, ...]) -> Check:
    path, there, writable, *room = words
    question = Question(f"node-writable:{path}", PART, "compile caches")
    if there != "yes":
        return question.failed(_not_there(path, there), "correct it in the site file, or mkdir it")
    if writable != "yes":
        return question.failed(f"{path} cannot be written on the node", "ls -ld it on the node")
    free = byte_count(room, 2)
    return question.ok(f"{path} can be written" + ("" if free is None else f", {size(free)} free"))


def _not_there(path: str, there: str) -> str:
    if there == "hangs":
        return f"{path} does not answer on the node: its file system may be down"
    return f"{path} cannot be read on the node" if there == "unreadable" else f"no {path} there"


def _memory(seen: Seen) -> Check:
    limit, kib = (number(word(seen, "memory", i)) for i in (0, 1))
    node = "" if kib is None else f"; the node has {size(kib * 1024)}"
    if limit is None or limit > _HUGE:
        return MEMORY.ok(f"not limited by a cgroup{node}")
    return MEMORY.ok(f"{size(limit)} by its cgroup{node}")


def _memlock(seen: Seen) -> Check:
    text = word(seen, "memlock", 0)
    if text == "unlimited":
        return MEMLOCK.ok("ulimit -l is unlimited")
    kib = number(text)
    if kib is None:
        return MEMLOCK.unknown("the node did not tell ulimit -l")
    # InfiniBand registers memory, which counts as locked; one node's engine does without.
    return MEMLOCK.ok(f"ulimit -l is {size(kib * 1024)}; InfiniBand between nodes would need more")
