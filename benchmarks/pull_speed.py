"""How fast a pull is: bytes a second from a hub on this machine, divided by those of `hf download`.

Both fetch the same files from the same server, in turns, each time into an empty cache. hpcvlm
compares every file with the hub's hash meanwhile, which `hf download` does not.
"""

from __future__ import annotations

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
    options,
    ratio,
    sample_rows,
    table,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.hub_stand_in import HubStandIn  # noqa: E402

REPO = "bench/model"
# hf download's wall time divided by ours must be at least 0.9.
TARGET = 1 / 0.9
MEGABYTE = 1_000_000
SIZES = (*(200 * MEGABYTE,) * 4, *(10 * MEGABYTE,) * 4, *(MEGABYTE // 10,) * 10, *(1000,) * 10)


def make_files(folder: Path, part: float) -> dict[str, bytes | Path]:
    """Files of mixed sizes, of bytes that no file system packs."""
    files: dict[str, bytes | Path] = {}
    for number, size in enumerate(SIZES):
        path = folder / f"model-{number:05}.safetensors"
        with path.open("wb") as stream:
            left = int(size * part)
            while left > 0:
                left -= stream.write(os.urandom(min(left, 16 * MEGABYTE)))
        files[path.name] = path
    return {**files, "config.json": b"{}"}


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=5)
    parser.add_argument("--part", type=float, default=1.0, help="of the sizes, such as 0.1")
    parser.add_argument("--folder", type=Path, help="where files and caches are made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        place = Path(name)
        (place / "hub").mkdir()
        files = make_files(place / "hub", arguments.part)
        with HubStandIn({REPO: {"main": files}}) as hub:
            samples = interleaved(commands(hub, place, str(arguments.hpcvlm)), arguments.rounds)
    wall, _ = ratio(samples, "hpcvlm snapshots pull", "hf download")
    checks = [Check("hpcvlm snapshots pull / hf download, wall", wall, TARGET)]
    finish(
        checks, table(SAMPLE_HEADER, sample_rows(samples)), dict(samples), as_json=arguments.json
    )


def commands(hub: HubStandIn, place: Path, hpcvlm: str) -> list[Command]:
    """The two that are compared; each cache is removed once the time has been taken."""
    environment = {**os.environ, **hub.environment(), "HOME": str(place)}
    hf = str(Path(sys.executable).parent / "hf")

    def remove(cache: Path) -> None:
        count = sum(1 for _ in cache.glob("models--*/snapshots/*/*"))
        if count != len(SIZES) + 1:
            sys.exit(f"{cache}: {count} files came, {len(SIZES) + 1} were expected")
        shutil.rmtree(cache)

    ours, theirs = place / "ours", place / "theirs"
    return [
        Command(
            "hpcvlm snapshots pull",
            [hpcvlm, "snapshots", "pull", REPO, "--to", str(ours)],
            environment,
            lambda _: remove(ours),
        ),
        Command(
            "hf download",
            [hf, "download", REPO, "--cache-dir", str(theirs)],
            environment,
            lambda _: remove(theirs),
        ),
    ]


if __name__ == "__main__":
    main()
