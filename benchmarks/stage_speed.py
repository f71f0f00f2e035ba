"""How fast a job copies weights to its node, against cp -rL and rsync -aL.

What is timed are the functions of a rendered job script, taken out of it as they stand. Twice: 40
files of 4 GiB in all on a local disk, and 40 files on a store that gives every open file one
server's speed (slow_store.py, by FUSE). All three read the same hub cache, in turns; before every
run the copy of the last one is gone, what was to be written is written, and the page cache is
dropped (as root; else it is warm for all).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from timing import (
    SAMPLE_HEADER,
    Check,
    Command,
    Samples,
    finish,
    interleaved,
    median_wall,
    options,
    sample_rows,
    table,
)

from hpcvlm.catalog.load import Layer, apply_settings, find_model
from hpcvlm.ops.prepare import materials
from hpcvlm.plan.build import Surroundings, build_plan
from hpcvlm.plan.model import LaunchRequest, PlannedSnapshot, StagedFile
from hpcvlm.render.script import render_job
from hpcvlm.resources import shipped_models
from hpcvlm.site.load import load_site
from hpcvlm.snapshots.links import snapshot_files
from hpcvlm.system.files import FolderOfTexts

FILES = 40
MEBIBYTE = 1024**2
COMMIT = "c" * 40
OURS, CP, RSYNC = "the job", "cp -rL", "rsync -aL"
# As fast as the better of the two; a twentieth is the noise of medians on a shared machine, and
# the range of each command's runs stands beside them.
LOCAL_TARGET = 1.05
SLOW_TARGET = 1 / 3
MFUSEPY = "mfusepy==3.1.1"
TIMEOUT_S = 30.0


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--mebibytes", type=int, default=4096, help="of all files (4096)")
    parser.add_argument("--slow-mebibytes", type=int, default=640, help="on the slow store (640)")
    parser.add_argument("--stream", type=float, default=20e6, help="bytes/s of one file (20e6)")
    parser.add_argument("--folder", type=Path, help="on a local disk (default: $TMPDIR)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpcvlm-stage-", dir=arguments.folder) as name:
        place = Path(name)
        hub = make_hub(place / "fast", arguments.mebibytes)
        local = measure(place, hub, arguments.rounds)
        shutil.rmtree(place / "fast")
        make_hub(place / "behind", arguments.slow_mebibytes)
        with slow_store(place / "behind", place / "slow", arguments.stream) as mounted:
            slow = measure(place, mounted, max(1, arguments.rounds // 2))
    report(arguments, local, slow)


def report(arguments: argparse.Namespace, local: Samples, slow: Samples) -> None:
    """Tables and targets."""
    best = min((CP, RSYNC), key=lambda label: median_wall(local[label]))
    megabytes = {"local": arguments.mebibytes, "slow": arguments.slow_mebibytes}
    body = "\n\n".join(
        f"{title}\n"
        + table(
            (*SAMPLE_HEADER, "MB/s"),
            [
                (*row, f"{megabytes[name] * MEBIBYTE / 1e6 / median_wall(samples[row[0]]):.0f}")
                for row in sample_rows(samples)
            ],
        )
        for name, title, samples in (
            ("local", f"{FILES} files, local disk", local),
            ("slow", f"{FILES} files, {arguments.stream / 1e6:g} MB/s per open file", slow),
        )
    )
    ours = median_wall(local[OURS]) / median_wall(local[best])
    apart = median_wall(slow[OURS]) / median_wall(slow[CP])
    checks = [
        Check(f"local: {OURS} / {best}", ours, LOCAL_TARGET),
        Check(f"slow store: {OURS} / {CP}", apart, SLOW_TARGET),
    ]
    numbers = {"local": local, "slow": slow, "cold": os.geteuid() == 0}
    finish(checks, body, numbers, as_json=arguments.json)


def make_hub(folder: Path, mebibytes: int) -> Path:
    """A hub cache whose one snapshot has 40 files of the same size; gives the snapshot's folder."""
    snapshot = folder / "models--org--model" / "snapshots" / COMMIT
    blobs = folder / "models--org--model" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    block = os.urandom(MEBIBYTE)
    for number in range(FILES):
        with (blobs / f"{number}").open("wb") as blob:
            for _ in range(mebibytes // FILES + (number < mebibytes % FILES)):
                blob.write(block)
        name = "config.json" if number == 0 else f"model-{number:05}.safetensors"
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    return snapshot


def measure(place: Path, snapshot: Path, rounds: int) -> Samples:
    """Each of the three in turns."""
    node = place / "node"
    tidy = tidier(node)
    tidy("")
    script = job_functions(place, snapshot)
    env = {"PATH": os.environ["PATH"], "NODE": str(node), "LC_ALL": "C.UTF-8"}
    commands = [
        Command(OURS, ["bash", str(script)], env, tidy),
        Command(CP, ["cp", "-rL", str(snapshot), str(node / "copy")], env, tidy),
    ]
    if rsync := shutil.which("rsync"):
        argv = [rsync, "-aL", f"{snapshot}/", str(node / "copy")]
        commands.append(Command(RSYNC, argv, env, tidy))
    else:
        sys.exit("rsync is not installed")
    return interleaved(commands, rounds, warm_up=0)


def tidier(node: Path) -> Callable[[str], None]:
    """Brings the machine back to where every run begins."""

    def tidy(_said: str) -> None:
        shutil.rmtree(node, ignore_errors=True)
        node.mkdir(mode=0o700)
        os.sync()
        if os.geteuid() == 0:
            Path("/proc/sys/vm/drop_caches").write_text("3\n")

    return tidy


def job_functions(place: Path, snapshot: Path) -> Path:
    """A script of the rendered job's own functions, which copies and ends."""
    layers = [Layer("shipped", FolderOfTexts(shipped_models()))]
    spec = apply_settings(find_model("tiny-vlm", layers), ()).spec
    text = {
        "schema": 1,
        "runtime": "none",
        "engines": [{"version": "0.32.0", "command": ["/bin/false"]}],
        "staging": {"folder": "$NODE", "always": True, "keep": True, "prefetch": "never"},
    }
    site, _ = load_site([("site", "site.yaml", json.dumps(text))])
    repository = str(snapshot.parent.parent)
    found = Surroundings(
        executor="local",
        name="copy",
        folder=str(place / "job"),
        cluster=None,
        snapshot=PlannedSnapshot("org/model", COMMIT, str(snapshot), repository),
        snapshot_problems=(),
        attention_heads=None,
        images_on_disk=frozenset(),
        cache_root=str(place / "cache"),
        sources={},
        files=tuple(StagedFile(file.path, file.size) for file in snapshot_files(snapshot)),
    )
    plan = build_plan(LaunchRequest("tiny-vlm", gpus="0"), spec, site, found).plan
    rendered = render_job(plan, materials()).script
    head, _, rest = rendered.partition("# ---- state.json")
    functions = "# ---- many hands" + rest.partition("# ---- many hands")[2]
    functions = functions.partition("# ---- stopping")[0]
    listed = rendered.partition("files.txt\" <<'END_OF_FILES'\n")[2].partition("END_OF_FILES")[0]
    (place / "job" / "payloads").mkdir(parents=True, exist_ok=True)
    (place / "job" / "payloads" / "files.txt").write_text(listed)
    script = place / "copy.sh"
    script.write_text(
        f"{head}\nwrite_state() {{ :; }}\nscratch=$(mktemp -d)\n{functions}\n"
        'stage\nrm -rf -- "$scratch"\n'
        '[[ $staging == *\'"how": "copied"\'* ]] || { echo "$staging" >&2; exit 1; }\n'
    )
    return script


@contextmanager
def slow_store(behind: Path, mountpoint: Path, rate: float) -> Iterator[Path]:
    """A folder seen through FUSE, where every open file has its own limit."""
    mountpoint.mkdir()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    library = cache / "hpcvlm" / f"bench-{MFUSEPY.replace('==', '-')}"
    if not library.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "-q", "--target", str(library)]
        subprocess.run([*pip, MFUSEPY], check=True)
    argv = [sys.executable, str(Path(__file__).with_name("slow_store.py"))]
    process = subprocess.Popen(
        [*argv, str(behind), str(mountpoint), str(rate)],
        env={**os.environ, "PYTHONPATH": str(library)},
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not mountpoint.is_mount():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit("slow_store.py did not mount; is libfuse installed?")
            time.sleep(0.05)
        yield mountpoint / "models--org--model" / "snapshots" / COMMIT
    finally:
        unmount = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount"
        subprocess.run([unmount, "-u", str(mountpoint)], check=False)
        process.terminate()
        process.wait(TIMEOUT_S)


if __name__ == "__main__":
    main()
