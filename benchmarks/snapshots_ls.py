"""How long what `hpcvlm snapshots ls` shows of a store takes, beside huggingface_hub's scan.

Both read the same store in the same process, in turns: `summarise` reads the links, blobs and refs,
the indexes of the shards, manifests and lists; `scan_cache_dir` reads links, blobs and refs. Their
answers are compared before the times are. Files have their sizes and take no room on the disk.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import scan_cache_dir
from timing import SAMPLE_HEADER, Check, Sample, Samples, finish, options, ratio, sample_rows, table

from hpcvlm.snapshots.listing.summary import Summary, disk_use, summarise
from hpcvlm.snapshots.manifest import write_manifest
from hpcvlm.snapshots.model import Manifest, ManifestFile

REPOSITORIES = 500
FILES = 50_000
TARGET = 0.5
OURS = "summarise"
THEIRS = "scan_cache_dir"
_SHARED = 20  # files that the second commit of a repository takes over from the first
_SHARD_BYTES = 1_000_000_000
_TENSORS = 30  # of one shard, as the index names them


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, rounds=7)
    parser.add_argument("--repositories", type=int, default=REPOSITORIES)
    parser.add_argument("--files", type=int, default=FILES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpcvlm-bench-") as folder:
        cache = Path(folder) / "hub"
        _make_store(cache, arguments.repositories, arguments.files)
        _same_answers(cache)
        samples = _take_turns(
            {OURS: lambda: summarise([cache]), THEIRS: lambda: scan_cache_dir(cache)},
            arguments.rounds,
        )
    _report(samples, arguments)


def _make_store(cache: Path, repositories: int, files: int) -> None:
    """Every second repository has two commits, the second of which shares most of its files."""
    per_repository = files // repositories
    for number in range(repositories):
        folder = cache / f"models--org{number % 40}--model-{number:04}"
        (folder / "blobs").mkdir(parents=True)
        (folder / "refs").mkdir()
        commits = [_digest(f"{number}/{n}")[:40] for n in range(1 + number % 2)]
        share = _SHARED if len(commits) > 1 else 0
        first = _blobs(folder, f"{number}/0", (per_repository + share) // len(commits))
        _snapshot(folder, commits[0], first)
        _verified(folder, commits[0], first)
        for commit in commits[1:]:
            fresh = _blobs(folder, f"{number}/{commit}", per_repository - len(first) - share)
            _snapshot(folder, commit, {**dict(list(first.items())[:share]), **fresh})
        (folder / "refs" / "main").write_text(commits[-1])


def _blobs(folder: Path, seed: str, count: int) -> dict[str, str]:
    """Blobs by the name of the file: weights, their index, and small files."""
    shards = [f"model-{n:05}-of-{count // 2:05}.safetensors" for n in range(count // 2)]
    made: dict[str, str] = {}
    for name in shards:
        made[name] = _digest(f"{seed}/{name}")
        with (folder / "blobs" / made[name]).open("wb") as stream:
            stream.truncate(_SHARD_BYTES)
    tensors = {
        f"model.layers.{n}.self_attn.{tensor}.weight": name
        for n, name in enumerate(shards)
        for tensor in range(_TENSORS)
    }
    index = {"weight_map": tensors}
    texts = {f"extra/file-{n:03}.json": "{}" for n in range(count - len(shards) - 1)}
    texts["model.safetensors.index.json"] = json.dumps(index)
    for name, text in texts.items():
        made[name] = _digest(f"{seed}/{name}")[:40]
        (folder / "blobs" / made[name]).write_text(text)
    return made


def _snapshot(folder: Path, commit: str, files: dict[str, str]) -> None:
    place = folder / "snapshots" / commit
    (place / "extra").mkdir(parents=True)
    for name, blob in files.items():
        (place / name).symlink_to(f"{'../' * (2 + name.count('/'))}blobs/{blob}")


def _verified(folder: Path, commit: str, files: dict[str, str]) -> None:
    """The manifest that `verify` writes."""
    kept = {
        name: ManifestFile((folder / "blobs" / blob).stat().st_size, _digest(blob), blob)
        for name, blob in files.items()
    }
    repo = folder.name.removeprefix("models--").replace("--", "/")
    write_manifest(folder, Manifest(repo, commit, kept, time.time(), "admin", "hub"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same_answers(cache: Path) -> None:
    """Both find the same commits with the same sizes, and the same size of everything."""
    ours = summarise([cache])
    theirs = scan_cache_dir(cache)
    found = {(_repo(one), _commit(one)): one.size for one in ours}
    expected = {
        (repo.repo_id, revision.commit_hash): revision.size_on_disk
        for repo in theirs.repos
        for revision in repo.revisions
    }
    total = disk_use({one.repository.path: one.repository for one in ours}.values())
    incomplete = [one for one in ours if not one.complete]
    if found != expected or total != theirs.size_on_disk or incomplete or theirs.warnings:
        raise SystemExit("the two scans do not agree on the store")


def _repo(one: Summary) -> str:
    return one.repository.repo


def _commit(one: Summary) -> str:
    return one.snapshot.commit if one.snapshot is not None else ""


def _take_turns(scans: dict[str, Callable[[], object]], rounds: int) -> Samples:
    samples: Samples = {label: [] for label in scans}
    labels = list(scans)
    for number in range(rounds):
        first = number % len(labels)
        for label in (*labels[first:], *labels[:first]):
            gc.collect()
            before, start = os.times(), time.perf_counter()
            answer = scans[label]()
            wall, after = time.perf_counter() - start, os.times()
            del answer
            user = after.user - before.user
            samples[label].append(Sample(wall, user, user + after.system - before.system))
    return samples


def _report(samples: Samples, arguments: Namespace) -> None:
    wall, user = ratio(samples, OURS, THEIRS)
    checks = [
        Check(f"{OURS} / {THEIRS}, wall", wall, TARGET),
        Check(f"{OURS} / {THEIRS}, user CPU", user, TARGET),
    ]
    numbers = {
        "samples": samples,
        "repositories": arguments.repositories,
        "files": arguments.files,
    }
    finish(checks, table(SAMPLE_HEADER, sample_rows(samples)), numbers, as_json=arguments.json)


if __name__ == "__main__":
    main()
