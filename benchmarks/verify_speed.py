"""How fast verify reads a snapshot: divided by sha256sum, one process a core, on the same files.

Both read files that are in the page cache, so what counts is hashing and what is lost around it.
The snapshots are verified by `hpcvlm.snapshots.verify.verify` in a Python that has done nothing
else; its start is part of the time, as that of sha256sum and xargs is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from timing import (
    SAMPLE_HEADER,
    Check,
    Command,
    finish,
    interleaved,
    median_wall,
    options,
    ratio,
    sample_rows,
    table,
)

LONGEST = 1 / 0.9  # of the time of sha256sum: nine tenths of its throughput
MEMORY = 1.10  # peak of memory with eight times the bytes
MEBI = 1024 * 1024
COMMIT = "0" * 39
MODEL = "8 x 256 MiB, 40 x 20 kB"  # shards and texts, as models have them
MANY = "10,000 x 20 kB"  # as no model has; shown, since what is lost around the hashing shows here

VERIFY = """
import os, sys
from pathlib import Path
from hpcvlm.snapshots.model import StoredSnapshot
from hpcvlm.snapshots.verify.verify import How, verify_snapshot
folder = Path(sys.argv[1])
stored = StoredSnapshot("org/m", folder.name, folder, (), ())
found = verify_snapshot(stored, How("b", 0.0, keep=False))
wrong = [f.sentence for f in found.problems if f.path != "config.json"]
if wrong or found.read != found.size:
    sys.exit(f"{wrong} {found.read} {found.size}")
# Not ru_maxrss, which a process has from whoever started it.
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0], found.read)
"""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--folder", type=Path, help="where the files go (default: in $TMPDIR)")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    place = Path(tempfile.mkdtemp(prefix="verify-speed-", dir=arguments.folder))
    peaks: dict[str, int] = {}
    try:
        large = snapshot(place, "1", (8, 256 * MEBI), (40, 20_000))
        one_large = snapshot(place, "2", (1, 256 * MEBI))
        small = snapshot(place, "3", (10_000, 20_000))
        commands = [*pair(MODEL, large, cores, peaks), *pair(MANY, small, cores, peaks)]
        samples = interleaved(commands, arguments.rounds)
        alone = Command("verify 1 x 256 MiB", argv(one_large), os.environ, Peak(peaks, "one"))
        samples |= interleaved([alone], arguments.rounds)
    finally:
        shutil.rmtree(place)
    times = {w: ratio(samples, f"verify {w}", f"sha256sum {w}")[0] for w in (MODEL, MANY)}
    checks = [Check(f"verify / sha256sum on {cores} cores, {MODEL}, wall", times[MODEL], LONGEST)]
    grown = peaks[MODEL] / peaks["one"]
    checks.append(Check("peak memory, 2 GiB / 256 MiB", grown, MEMORY))
    rate = 8 * 256 * MEBI / median_wall(samples[f"verify {MODEL}"]) / 1e9
    body = table(SAMPLE_HEADER, sample_rows(samples))
    body += f"\n\nverify {rate:.2f} GB/s, peak {peaks[MODEL] / MEBI:.0f} MiB"
    body += f"\nno target: verify / sha256sum, {MANY}, wall: {times[MANY]:.2f}"
    numbers = {"samples": samples, "peak bytes": peaks, "GB/s": rate, "ratios": times}
    finish(checks, body, numbers, as_json=arguments.json)


def snapshot(place: Path, digit: str, *kinds: tuple[int, int]) -> Path:
    """A snapshot of a hub cache whose blobs have the right names."""
    repository = place / f"models--org--m{digit}"
    folder = repository / "snapshots" / f"{COMMIT}{digit}"
    blobs = repository / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    sizes = [size for files, size in kinds for _ in range(files)]
    for number, size in enumerate(sizes):
        # Random bytes once; a number in front makes each file another one.
        content = number.to_bytes(8, "little") + _random(size - 8)
        name = hashlib.sha256(content).hexdigest()
        (blobs / name).write_bytes(content)
        (folder / f"part-{number:05}.bin").symlink_to(f"../../blobs/{name}")
    return folder


def pair(what: str, folder: Path, cores: int, peaks: dict[str, int]) -> list[Command]:
    """Both commands on the same files."""
    xargs = ["xargs", "-0", "-P", str(cores), "-n", "1" if what[0] == "8" else "100", "sha256sum"]
    line = f"find {folder}/ -type l -print0 | {' '.join(xargs)} > /dev/null"
    return [
        Command(f"verify {what}", argv(folder), os.environ, Peak(peaks, what)),
        Command(f"sha256sum {what}", ["bash", "-c", line], os.environ),
    ]


def argv(folder: Path) -> list[str]:
    """A Python that verifies one folder."""
    return [sys.executable, "-c", VERIFY, str(folder)]


class Peak:
    """Keeps the peak of memory that a run has printed."""

    def __init__(self, peaks: dict[str, int], what: str) -> None:
        self._peaks, self._what = peaks, what

    def __call__(self, stdout: str) -> None:
        """Keep the largest."""
        peak = int(stdout.split(maxsplit=1)[0]) * 1024
        self._peaks[self._what] = max(peak, self._peaks.get(self._what, 0))


_KEPT: dict[int, bytes] = {}


def _random(size: int) -> bytes:
    if size not in _KEPT:
        _KEPT[size] = os.urandom(size)
    return _KEPT[size]


if __name__ == "__main__":
    main()
