from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpcvlm.snapshots.hub import snapshot_at
from hpcvlm.snapshots.manifest import manifest_path, read_manifest, write_listing
from hpcvlm.snapshots.model import ListedFile, StoredSnapshot
from hpcvlm.snapshots.store import scan_cache
from hpcvlm.snapshots.verify.findings import Finding
from hpcvlm.snapshots.verify.hashing import ToHash, hash_files
from hpcvlm.snapshots.verify.required_files import lacks
from hpcvlm.snapshots.verify.result import Progress, Verification
from hpcvlm.snapshots.verify.verify import How, differing_copies, verify_snapshot
from tests.verify_fixtures import (
    COMMIT,
    INDEX,
    REPO,
    SHARDS,
    flip,
    hub_hash,
    model_files,
    overwrite,
    plain,
    safetensors,
    store,
)

FULL = How(by="ada", now=86400.0 * 365)
QUICK = How(by="ada", now=0.0, quick=True)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n"


@pytest.fixture
def stored(tmp_path: Path) -> StoredSnapshot:
    """A whole snapshot in a hub cache."""
    return store(tmp_path / "hub", model_files())


def check(stored: StoredSnapshot, **changes: object) -> Verification:
    """Verify as a new command would: nothing is known from before."""
    return verify_snapshot(stored, How(by="ada", now=FULL.now, **changes))  # type: ignore[arg-type]


def only_problem(found: Verification) -> Finding:
    (problem,) = found.problems
    return problem


def repository(stored: StoredSnapshot) -> Path:
    return stored.path.parent.parent


def listing(files: dict[str, bytes]) -> list[ListedFile]:
    return [ListedFile(name, len(data), hub_hash(data)) for name, data in files.items()]


def test_a_whole_snapshot_gets_a_manifest_and_the_next_look_finds_it_the_same(
    stored: StoredSnapshot,
) -> None:
    found = check(stored)
    assert found.findings == ()
    assert (found.manifest, found.compared_with, found.depth) == ("written", "blobs", "full")
    assert found.read == found.size == sum(map(len, model_files().values()))
    manifest = read_manifest(repository(stored), COMMIT)
    assert manifest is not None
    assert (manifest.by, manifest.created, manifest.source) == ("ada", FULL.now, "blobs")
    for name, content in model_files().items():
        assert manifest.files[name].size == len(content)
        assert manifest.files[name].hub_hash == hub_hash(content)
    again = check(stored)
    assert (again.findings, again.manifest, again.digest) == ((), "same", found.digest)
    assert found.digest.startswith("sha256:")


@pytest.mark.parametrize("name", [SHARDS[0], "config.json", "README.md"])
def test_a_flipped_byte_is_found_by_the_name_of_the_blob(stored: StoredSnapshot, name: str) -> None:
    flip(stored, name, position=8 if name.startswith("README") else -1)
    problem = only_problem(check(stored))
    assert (problem.path, problem.kind, problem.fetch) == (name, "content", True)
    wanted = hub_hash(model_files()[name])[:12]
    assert problem.text.endswith(f"it must be {wanted}…")
    assert read_manifest(repository(stored), COMMIT) is None


def test_a_flipped_byte_since_the_manifest_is_told_with_its_day(stored: StoredSnapshot) -> None:
    check(stored)
    flip(stored, SHARDS[1])
    assert check(stored, quick=True).whole
    found = check(stored)
    assert only_problem(found).sentence == (
        f"{SHARDS[1]}: content differs from when it was verified (1971-01-01); "
        "the byte count is the same"
    )
    assert found.manifest == "differs"


def test_a_truncated_shard_is_found_by_a_quick_look_and_stops_a_launch(
    stored: StoredSnapshot,
) -> None:
    whole = len(model_files()[SHARDS[0]])
    overwrite(stored, SHARDS[0], model_files()[SHARDS[0]][:-1])
    for how in (QUICK, FULL):
        problem = only_problem(verify_snapshot(stored, how))
        assert problem.sentence == f"{SHARDS[0]}: {whole - 1:,} bytes on disk, {whole:,} expected"
        assert problem.fetch
    assert snapshot_at(stored.path, REPO, COMMIT).problems == (problem.sentence,)


def test_a_size_other_than_the_manifest_s_stops_a_launch(stored: StoredSnapshot) -> None:
    check(stored)
    assert snapshot_at(stored.path, REPO, COMMIT).problems == ()
    overwrite(stored, "tokenizer.json", b'{"model": {}, "x": 1}')
    assert snapshot_at(stored.path, REPO, COMMIT).problems == (
        "tokenizer.json: 21 bytes on disk, 13 when it was verified (1971-01-01)",
    )
    overwrite(stored, "tokenizer.json", model_files()["tokenizer.json"])
    overwrite(stored, "README.md", b"shorter")
    assert snapshot_at(stored.path, REPO, COMMIT).problems == ()  # no engine reads it
    assert only_problem(check(stored, quick=True)).path == "README.md"


def test_an_lfs_pointer_is_told_for_any_file(stored: StoredSnapshot) -> None:
    overwrite(stored, "tokenizer.json", POINTER)
    overwrite(stored, SHARDS[0], POINTER)
    found = check(stored, quick=True)
    assert [(p.path, "Git LFS pointer" in p.text) for p in found.problems] == [
        (SHARDS[0], True),
        ("tokenizer.json", True),
    ]
    assert all(problem.stops for problem in found.problems)


def test_a_missing_shard_is_told_once(stored: StoredSnapshot) -> None:
    (stored.path / SHARDS[1]).unlink()
    problem = only_problem(check(stored))
    assert problem.sentence == f"{SHARDS[1]}: named in the index, not on disk"
    assert (problem.stops, problem.fetch) == (True, True)


@pytest.mark.parametrize("path", ["original/consolidated.00.pth", "pytorch_model.bin"])
def test_what_no_server_reads_stops_no_launch(tmp_path: Path, path: str) -> None:
    stored = store(tmp_path, {**model_files(), path: b"as many bytes as are needed" * 99})
    assert check(stored).problems == ()
    (stored.path / path).unlink()
    gone = only_problem(check(stored))
    assert (gone.path, gone.kind, gone.stops) == (path, "gone", False)
    (stored.path / path).write_bytes(POINTER)
    assert not any(found.stops for found in check(stored).problems)
    overwrite(stored, "tokenizer.json", POINTER)
    assert any(found.stops for found in check(stored).problems)


def test_a_link_whose_blob_is_gone_is_told_once(stored: StoredSnapshot) -> None:
    (stored.path / SHARDS[1]).resolve().unlink()
    problem = only_problem(check(stored))
    assert problem.text.startswith("its blob is missing (../../blobs/")


def test_an_index_of_the_form_that_was_not_fetched_is_a_warning(tmp_path: Path) -> None:
    files = model_files()
    consolidated = files.pop(SHARDS[0])
    del files[SHARDS[1]]
    stored = store(tmp_path, {**files, "consolidated.safetensors": consolidated})
    found = check(stored)
    assert found.whole
    assert "none of its shards is here" in found.warnings[0].text
    assert snapshot_at(stored.path, REPO, COMMIT).problems == ()


def test_a_tensor_that_is_not_in_the_shard_that_the_index_names_is_a_problem(
    tmp_path: Path,
) -> None:
    files = {**model_files(), SHARDS[0]: safetensors({"a": 2000, "x": 1000})}
    stored = store(tmp_path, files)
    found = check(stored, quick=True)
    assert only_problem(found).sentence == (
        f"{SHARDS[0]}: lacks tensor b, which {INDEX} says it holds"
    )
    assert [w.text for w in found.warnings] == [f"holds tensor x, which {INDEX} does not say"]
    assert only_problem(found).fetch
    # The content is what the hub has: to fetch it again would not help.
    full = only_problem(check(stored))
    assert full.text.endswith("; the hub has it so")
    assert not full.fetch


def test_tensors_that_overlap_or_leave_gaps_are_told(tmp_path: Path) -> None:
    whole = safetensors({"a": 2000, "b": 1000})
    broken = whole.replace(b"[2000, 3000]", b"[1999, 3000]")
    assert len(broken) == len(whole)
    stored = store(tmp_path, {**model_files(), SHARDS[0]: broken})
    problem = only_problem(check(stored, quick=True))
    assert "its tensors overlap or leave gaps at byte 2,000" in problem.text
    assert problem.stops


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{nope", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": [1]}', "has no weight_map"),
    ],
)
def test_an_index_that_cannot_be_used_is_named(
    stored: StoredSnapshot, content: bytes, words: str
) -> None:
    overwrite(stored, INDEX, content)
    problem = only_problem(check(stored, quick=True))
    assert (problem.path, words in problem.text) == (INDEX, True)


def test_an_empty_file_is_a_problem_unless_the_hub_s_is_empty(tmp_path: Path) -> None:
    stored = store(tmp_path, {**model_files(), "__init__.py": b""})
    assert check(stored).whole
    overwrite(stored, "tokenizer.json", b"")
    assert only_problem(check(stored, quick=True)).sentence == "tokenizer.json: is empty"


def test_what_was_added_later_is_told_and_joins_the_manifest(stored: StoredSnapshot) -> None:
    first = check(stored)
    store(stored.path.parents[2], {"extra.json": b"{}"})
    found = check(stored)
    assert found.whole
    assert [w.sentence for w in found.warnings] == [
        "extra.json: added since it was verified (1971-01-01)"
    ]
    assert found.manifest == "extended"
    assert found.digest != first.digest
    assert check(stored).findings == ()


def test_what_somebody_put_there_does_not_join_the_manifest(stored: StoredSnapshot) -> None:
    first = check(stored)
    (stored.path / "modeling_evil.py").write_text("import os")
    for _ in range(2):
        found = check(stored)
        assert found.digest == first.digest
        assert [(w.path, w.kind) for w in found.warnings] == [
            ("", "plain"),
            ("modeling_evil.py", "added"),
        ]


def test_what_is_gone_since_the_manifest_is_told(stored: StoredSnapshot) -> None:
    check(stored)
    (stored.path / "tokenizer.json").unlink()
    problem = only_problem(check(stored, quick=True))
    assert problem.sentence == (
        "tokenizer.json: gone; it was here when it was verified (1971-01-01)"
    )
    assert snapshot_at(stored.path, REPO, COMMIT).problems == (problem.sentence,)


def test_a_link_to_another_blob_is_told_by_a_quick_look(stored: StoredSnapshot) -> None:
    check(stored)
    link = stored.path / SHARDS[1]
    other = safetensors({"c": 3000}, fill=1)
    blob = repository(stored) / "blobs" / hub_hash(other)
    blob.write_bytes(other)
    link.unlink()
    link.symlink_to(f"../../blobs/{blob.name}")
    problem = only_problem(check(stored, quick=True))
    assert problem.text.startswith(f"links to blob {blob.name[:12]}…")
    assert problem.stops


def test_an_interrupted_pull_is_told_by_the_hub_s_list(stored: StoredSnapshot) -> None:
    files = {**model_files(), "generation_config.json": b"{}", "LICENSE": b"x"}
    write_listing(repository(stored), COMMIT, listing(files))
    found = check(stored)
    assert [p.sentence for p in found.problems] == [
        "LICENSE: on the hub's list, not here",
        "generation_config.json: on the hub's list, not here",
    ]
    assert [p.stops for p in found.problems] == [False, True]
    assert found.compared_with == "listing"


def test_plain_files_are_compared_with_the_list_of_the_hub(tmp_path: Path) -> None:
    stored = plain(tmp_path, model_files())
    write_listing(repository(stored), COMMIT, listing(model_files()))
    found = check(stored)
    assert (found.findings, found.manifest) == ((), "written")
    manifest = read_manifest(repository(stored), COMMIT)
    assert manifest is not None
    assert manifest.source == "hub"
    manifest_path(repository(stored), COMMIT).unlink()
    flip(stored, "README.md")
    assert only_problem(check(stored)).path == "README.md"


def test_plain_files_without_any_list_are_kept_as_they_are_and_that_is_told(
    tmp_path: Path,
) -> None:
    stored = plain(tmp_path, model_files())
    found = check(stored)
    assert found.whole
    assert found.compared_with == "nothing"
    assert "8 files are no links" in found.warnings[0].text
    assert found.manifest == "written"
    assert check(stored).findings == ()
    flip(stored, SHARDS[0])
    assert only_problem(check(stored)).path == SHARDS[0]


def test_a_file_that_was_edited_where_it_lies_is_told(stored: StoredSnapshot) -> None:
    link = stored.path / "config.json"
    content = link.read_bytes()
    link.unlink()
    link.write_bytes(content + b"\n")  # as `sed -i` does: the link becomes a file
    (warning,) = check(stored).warnings
    assert "1 file is no link to a blob (config.json)" in warning.text
    assert "edited or copied here" in warning.text


def test_the_hub_s_own_list_tells_what_differs_and_what_is_not_here(
    stored: StoredSnapshot,
) -> None:
    files = {**model_files(), "original/consolidated.00.pth": b"big"}
    found = check(stored, hub_list=tuple(listing(files)))
    assert found.whole
    assert found.compared_with == "hub"
    assert found.warnings[0].text == (
        "the hub has 1 file more, not here: original/consolidated.00.pth"
    )
    manifest_path(repository(stored), COMMIT).unlink()
    del files["tokenizer.json"]
    files["config.json"] = b"{}"
    found = check(stored, hub_list=tuple(listing(files)))
    assert [(p.path, p.kind) for p in found.problems] == [
        ("config.json", "size"),
        ("tokenizer.json", "added"),
    ]


def test_the_digest_of_the_lock_file_is_the_anchor(stored: StoredSnapshot) -> None:
    digest = check(stored).digest
    assert check(stored, approved=digest).whole
    assert check(stored, approved=digest, quick=True).whole
    other = "sha256:" + "0" * 64
    for quick in (False, True):
        problem = only_problem(check(stored, approved=other, quick=quick))
        assert problem.kind == "approval"
        assert digest in problem.text
        assert other in problem.text
    # Content and manifest may both be replaced; the lock file is not.
    manifest_path(repository(stored), COMMIT).unlink()
    blob = (stored.path / "tokenizer.json").resolve()
    changed = b'{"model": {"x": 1}}'
    (blob.parent / hub_hash(changed)).write_bytes(changed)
    (stored.path / "tokenizer.json").unlink()
    (stored.path / "tokenizer.json").symlink_to(f"../../blobs/{hub_hash(changed)}")
    assert only_problem(check(stored, approved=digest)).kind == "approval"
    assert read_manifest(repository(stored), COMMIT) is None


def test_an_approved_snapshot_that_was_never_verified_is_told(stored: StoredSnapshot) -> None:
    (warning,) = check(stored, approved="sha256:" + "0" * 64, quick=True).warnings
    assert "verify without --quick" in warning.text


def test_a_damaged_manifest_is_a_problem_and_is_not_replaced(stored: StoredSnapshot) -> None:
    check(stored)
    path = manifest_path(repository(stored), COMMIT)
    path.write_text("{")
    found = check(stored)
    problem = only_problem(found)
    assert (problem.kind, str(path) in problem.text) == ("manifest", True)
    assert path.read_text() == "{"
    # It is no reason not to serve the weights.
    assert snapshot_at(stored.path, REPO, COMMIT).problems == ()


def test_two_caches_that_disagree_are_told(tmp_path: Path) -> None:
    files = model_files()
    store(tmp_path / "one", files)
    store(tmp_path / "two", files)
    held = [s for c in ("one", "two") for r in scan_cache(tmp_path / c) for s in r.snapshots]
    assert differing_copies(held[0], held) == ()
    overwrite(held[1], SHARDS[0], b"short")
    (held[1].path / "README.md").unlink()
    held = [s for c in ("one", "two") for r in scan_cache(tmp_path / c) for s in r.snapshots]
    (told,) = differing_copies(held[0], held)
    size = len(files[SHARDS[0]])
    assert told.text == (
        f"{held[1].path}: another copy, and it differs: README.md only here, "
        f"{SHARDS[0]} has {size:,} bytes here, 5 bytes there"
    )
    assert not told.problem


def test_bytes_that_were_read_once_are_not_read_again(tmp_path: Path) -> None:
    first = store(tmp_path, model_files())
    second = store(tmp_path, model_files(), commit="f" * 40)
    how = How(by="ada", now=0.0)
    assert verify_snapshot(first, how).read > 0
    found = verify_snapshot(second, how)
    assert (found.read, found.whole, found.manifest) == (0, True, "written")


def test_progress_counts_bytes_and_ends_at_the_total(stored: StoredSnapshot) -> None:
    told: list[Progress] = []
    verify_snapshot(stored, How(by="ada", now=0.0), told.append)
    last = told[-1]
    assert last.done == last.total == sum(map(len, model_files().values()))
    assert (last.files_done, last.files, last.what) == (8, 8, REPO)


def test_a_file_that_changes_while_it_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grows"
    path.write_bytes(b"1234")
    read = os.readv

    def grow(descriptor: int, buffers: tuple[memoryview, ...]) -> int:
        count = read(descriptor, buffers)
        if count == 4:
            with path.open("ab") as stream:
                stream.write(b"5")
        return count

    monkeypatch.setattr(os, "readv", grow)
    (answer,) = hash_files([ToHash(path, 4)])
    assert answer.error == "it changed while it was read"


def test_an_interrupt_ends_the_threads_and_writes_nothing(
    stored: StoredSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.readv

    def slow(descriptor: int, buffers: tuple[memoryview, ...]) -> int:
        time.sleep(0.01)
        return read(descriptor, (buffers[0][:10],))

    def interrupt(_progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "readv", slow)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        verify_snapshot(stored, How(by="ada", now=0.0), interrupt)
    assert threading.active_count() == before
    assert not (repository(stored) / ".hpcvlm").exists()


def test_reading_leaves_the_access_time_alone(stored: StoredSnapshot) -> None:
    shard = (stored.path / SHARDS[0]).resolve()
    os.utime(shard, (1000, 2000))
    snapshot_at(stored.path, REPO, COMMIT)
    assert check(stored).read > 0
    assert shard.stat().st_atime == 1000


CONFIG = {"architectures": ["X"], "vision_config": {}}
WHOLE = {"config.json", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"}


@pytest.mark.parametrize(
    ("files", "config"),
    [
        (WHOLE, CONFIG),
        ({"params.json", "tekken.json", "config.json"}, CONFIG),
        ({*WHOLE} - {"tokenizer.json"} | {"vocab.json", "merges.txt"}, CONFIG),
        ({*WHOLE} - {"tokenizer.json"} | {"qwen.tiktoken", "tokenization_qwen.py"}, CONFIG),
        ({*WHOLE} - {"tokenizer.json"} | {"spiece.model"}, CONFIG),
        ({*WHOLE} - {"preprocessor_config.json"} | {"processor_config.json"}, CONFIG),
        ({*WHOLE} - {"chat_template.jinja"} | {"chat_template.json"}, CONFIG),
        ({*WHOLE} - {"chat_template.jinja"}, {**CONFIG, "model_type": "deepseek_vl_v2"}),
        ({"config.json", "tokenizer.json", "chat_template.json"}, {"architectures": ["Llama"]}),
    ],
)
def test_what_is_complete_in_its_own_way_lacks_nothing(
    files: set[str], config: dict[str, object]
) -> None:
    assert lacks(files, config, {}) == []


def test_a_template_may_stand_in_the_tokenizer_s_file() -> None:
    files = WHOLE - {"chat_template.jinja"}
    assert len(lacks(files, CONFIG, {})) == 1
    assert lacks(files, CONFIG, {"tokenizer_config.json": {"chat_template": "{{ x }}"}}) == []


def test_only_what_is_sure_is_a_problem() -> None:
    sure = lacks({"config.json"}, {"vision_config": {}}, {})
    assert [(f.problem, f.text.partition(":")[0]) for f in sure] == [
        (False, "names no architectures; vLLM then needs --hf-overrides"),
        (False, "no tokenizer"),
        (True, "no image processor"),
        (False, "no chat template"),
    ]
    own_code = lacks({"config.json"}, {"vision_config": {}, "auto_map": {"AutoModel": "m.M"}}, {})
    assert not any(finding.problem for finding in own_code)


@pytest.fixture
def as_nobody(stored: StoredSnapshot, tmp_path: Path) -> list[str]:
    """How to run Python as somebody who owns nothing here."""
    if os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if str(folder) != "/tmp":
            folder.chmod(0o755)
    return ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable]


VERIFY = """
import json, sys
from pathlib import Path
from hpcvlm.snapshots.model import StoredSnapshot
from hpcvlm.snapshots.verify.verify import How, verify_snapshot
found = verify_snapshot(
    StoredSnapshot("org/m", sys.argv[2], Path(sys.argv[1]), (), ()), How(by="nobody", now=0.0)
)
print(json.dumps([[f.sentence for f in found.findings], found.manifest, found.manifest_note]))
"""


def verify_as(argv: list[str], stored: StoredSnapshot) -> list[object]:
    done = subprocess.run(
        [*argv, "-c", VERIFY, str(stored.path), COMMIT], capture_output=True, text=True, check=True
    )
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_an_unreadable_file_is_named_and_a_store_of_others_gets_no_manifest(
    stored: StoredSnapshot, as_nobody: list[str]
) -> None:
    findings, state, note = verify_as(as_nobody, stored)
    assert findings == []
    assert state == "not written"
    assert "Permission denied" in str(note)
    (stored.path / SHARDS[0]).resolve().chmod(0o600)
    (stored.path / "tokenizer.json").resolve().chmod(0o600)
    findings, state, _ = verify_as(as_nobody, stored)
    assert findings == [
        f"{SHARDS[0]}: not readable (Permission denied)",
        "tokenizer.json: not readable (Permission denied)",
    ]
    assert state == "none"


def test_a_folder_that_cannot_be_read_is_named(
    stored: StoredSnapshot, as_nobody: list[str]
) -> None:
    (stored.path / "extra").mkdir(mode=0o700)
    findings, _, _ = verify_as(as_nobody, stored)
    assert findings == ["extra: the folder cannot be read (Permission denied)"]


@pytest.mark.slow
def test_a_read_only_store_is_verified_and_keeps_no_manifest(
    stored: StoredSnapshot, tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    target = tmp_path / "read-only"
    target.mkdir()
    subprocess.run(["mount", "--bind", tmp_path / "hub", target], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", target], check=True)
        there = target / stored.path.relative_to(tmp_path / "hub")
        found = check(StoredSnapshot(REPO, COMMIT, there, (), ()))
        assert found.whole
        assert found.manifest == "not written"
        assert "Read-only file system" in found.manifest_note
        assert str(target) in found.manifest_note
    finally:
        subprocess.run(["umount", target], check=True)
