"""Pulling from a hub that fails: each failure has its own words and leaves nothing half done."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socket import gethostname

import huggingface_hub
import pytest
from filelock import FileLock

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.ops.snapshot_names import Wanted, wanted_snapshot
from hpcvlm.ops.snapshots_pull import Pulled, PullRequest, do_pull, prepare_pull
from hpcvlm.snapshots.hub import find_snapshot
from hpcvlm.snapshots.manifest import read_listing
from hpcvlm.snapshots.model import ListedFile
from hpcvlm.snapshots.pull.hub_errors import without_secrets
from hpcvlm.snapshots.pull.pull import Progress, fetch_files
from hpcvlm.snapshots.pull.space import check_room, room_at
from hpcvlm.snapshots.pull.unfinished import give_up, own_partial
from hpcvlm.snapshots.store import find_stored, scan_cache
from tests.hub_stand_in import Fault, HubStandIn, model_files, shard

REPO = "org/model"
SHARD = "model-00001-of-00002.safetensors"
FOLDER = "models--org--model"
LEFT_OUT = {"pytorch_model.bin", "original/consolidated.00.pth"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with HubStandIn({REPO: {"main": model_files()}}, page=3) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
        # Reading the whole catalog for an alias takes longer than a pull.
        monkeypatch.setattr("hpcvlm.ops.snapshots_pull.wanted_snapshot", repository)
        yield made
        huggingface_hub.close_session()


def repository(text: str, revision: str | None, _: Context) -> Wanted:
    return Wanted(text, revision or "main")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before something is asked again, which take no time here."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    return pauses


def pull(cache: Path, revision: str | None = None, *, all_files: bool = False) -> Pulled:
    return do_pull(prepare_pull(PullRequest(REPO, revision, str(cache), all_files), Context()))


def refused(cache: Path, revision: str | None = None) -> HpcvlmError:
    with pytest.raises(HpcvlmError) as caught:
        pull(cache, revision)
    return caught.value


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: a link's text, a file's hash."""
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def leftovers(cache: Path) -> list[str]:
    """Unfinished files that hold something."""
    return [path.name for path in cache.rglob("*.incomplete") if path.stat().st_size]


# --- what comes --------------------------------------------------------------------------------


def test_the_layout_is_what_huggingface_hub_makes(hub: HubStandIn, tmp_path: Path) -> None:
    done = pull(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    huggingface_hub.snapshot_download(
        REPO, endpoint=hub.url, cache_dir=theirs, ignore_patterns=sorted(LEFT_OUT)
    )
    ours, expected = tree(tmp_path / "ours" / FOLDER), tree(theirs / FOLDER)
    own = {path for path in ours if path.startswith(".hpcvlm/")}
    assert {path: ours[path] for path in ours.keys() - own} == {
        path: text for path, text in expected.items() if not path.startswith("trees/")
    }
    assert own == {f".hpcvlm/listings/{hub.commit(REPO)}.json"}
    assert done.problems == ()
    assert done.progress.received == sum(
        len(content) for path, content in model_files().items() if path not in LEFT_OUT
    )


def test_a_server_needs_no_second_format(hub: HubStandIn, tmp_path: Path) -> None:
    done = pull(tmp_path)
    assert {file.path for file in done.plan.left_out} == LEFT_OUT
    asked = {asked.file for asked in hub.requests}
    assert not asked & LEFT_OUT
    assert {"LICENSE", "sub/processing.py", "chat_template.jinja"} < asked


@pytest.mark.parametrize(
    ("model", "repo", "left_out"),
    [
        ("ministral-3-14b", "mistralai/Ministral-3-14B-Instruct-2512", {"model.safetensors"}),
        # named by its repository, which the same model serves
        (
            "mistralai/Ministral-3-14B-Instruct-2512",
            "mistralai/Ministral-3-14B-Instruct-2512",
            {"model.safetensors"},
        ),
        # which of the two vLLM takes depends on its version
        ("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", set()),
    ],
)
def test_a_model_of_the_catalog_gets_the_format_that_its_file_names(
    hub: HubStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    repo: str,
    left_out: set[str],
) -> None:
    monkeypatch.setattr("hpcvlm.ops.snapshots_pull.wanted_snapshot", wanted_snapshot)
    weights = {name: shard(100) for name in ("consolidated.safetensors", "model.safetensors")}
    hub.put(repo, "main", {"config.json": b"{}", **weights})
    prepared = prepare_pull(PullRequest(model, "main", str(tmp_path)), Context())
    assert prepared.plan.repo == repo
    assert {file.path for file in prepared.plan.left_out} == left_out


def test_all_files_brings_the_rest_and_the_listing_keeps_it(
    hub: HubStandIn, tmp_path: Path
) -> None:
    pull(tmp_path)
    before = len(hub.requests)
    done = pull(tmp_path, all_files=True)
    assert {file.path for file in done.plan.fetch} == LEFT_OUT
    assert {asked.file for asked in hub.requests[before:]} == {"api", *LEFT_OUT}
    pull(tmp_path)
    listing = read_listing(tmp_path / FOLDER, hub.commit(REPO))
    assert {file.path for file in listing or ()} == set(model_files())


def test_complete_already_fetches_nothing(hub: HubStandIn, tmp_path: Path) -> None:
    pull(tmp_path)
    before = tree(tmp_path)
    hub.requests.clear()
    done = pull(tmp_path)
    assert done.progress.received == 0
    assert {asked.file for asked in hub.requests} == {"api"}
    assert tree(tmp_path) == before


def test_a_complete_commit_needs_no_hub(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(tmp_path)
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull(tmp_path, hub.commit(REPO)).progress.received == 0
    assert hub.requests == []
    (tmp_path / FOLDER / "snapshots" / hub.commit(REPO) / "config.json").unlink()
    assert refused(tmp_path, hub.commit(REPO)).code == "hub-offline"


@pytest.mark.parametrize("length", [7, 12, 39, 40])
def test_a_commit_may_be_shortened(hub: HubStandIn, tmp_path: Path, length: int) -> None:
    commit = hub.commit(REPO)
    done = pull(tmp_path, commit[:length])
    assert done.plan.commit == commit
    assert list((tmp_path / FOLDER / "refs").iterdir()) == []


def test_a_branch_with_a_slash(hub: HubStandIn, tmp_path: Path) -> None:
    commit = hub.put(REPO, "refs/pr/1", {**model_files(), "config.json": b"{}"})
    assert pull(tmp_path, "refs/pr/1").plan.commit == commit
    assert (tmp_path / FOLDER / "refs" / "refs" / "pr" / "1").read_text() == commit


def test_a_blob_that_is_cut_short_is_fetched_again(hub: HubStandIn, tmp_path: Path) -> None:
    first = pull(tmp_path)
    blob = (first.plan.path / SHARD).resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:100])
    hub.requests.clear()
    assert [file.path for file in pull(tmp_path).plan.fetch] == [SHARD]
    assert blob.read_bytes() == whole
    assert {asked.file for asked in hub.requests} == {"api", SHARD}


def test_a_blob_of_another_commit_is_not_fetched_again(hub: HubStandIn, tmp_path: Path) -> None:
    pull(tmp_path)
    commit = hub.put(REPO, "main", {**model_files(), "config.json": b'{"a": 1}'})
    hub.requests.clear()
    done = pull(tmp_path)
    assert done.plan.commit == commit
    assert {a.file for a in hub.requests if a.method == "GET"} == {"api", "config.json"}
    assert done.problems == ()


def test_the_token_goes_to_the_hub_and_to_nobody_else(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(tmp_path)
    tokens = {(asked.path.startswith("/cdn/"), asked.token) for asked in hub.requests}
    assert tokens == {(False, "hf_secret"), (True, "")}


def test_secrets_of_addresses_are_never_shown() -> None:
    text = "GET https://user:word@cdn.example/x?X-Amz-Signature=abc&Policy=q failed"
    assert without_secrets(text) == "GET https://cdn.example/x failed"


# --- what is refused ---------------------------------------------------------------------------


def gated(hub: HubStandIn) -> None:
    hub.gated.add(REPO)


def no_model(hub: HubStandIn) -> None:
    hub.private.add(REPO)


def bad_token(hub: HubStandIn) -> None:
    hub.unknown_tokens.add("hf_old")


@pytest.mark.parametrize(
    ("trouble", "token", "code", "words"),
    [
        (gated, "", "hub-gated", ("no token", "hf auth login", "HF_TOKEN", "/org/model")),
        (gated, "hf_x", "hub-gated", ("has not been let in", "/org/model", "accept the terms")),
        (no_model, "", "hub-repo-unknown", ("knows no model org/model", "private")),
        (no_model, "hf_x", "hub-repo-unknown", ("knows no model org/model", "private")),
        (bad_token, "hf_old", "hub-token", ("does not take the token", "hf auth whoami")),
    ],
)
def test_who_may_not_is_told_why(
    hub: HubStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[HubStandIn], None],
    token: str,
    code: str,
    words: tuple[str, ...],
) -> None:
    trouble(hub)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = refused(tmp_path / "cache")
    text = " ".join((error.sentence, error.remedy, *error.details))
    assert error.code == code
    assert [word for word in words if word not in text] == []
    assert not token or token not in text
    assert not (tmp_path / "cache").exists()


def test_accepted_terms_open_a_gated_repository(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(REPO)
    hub.accepted.add("hf_good")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert pull(tmp_path).problems == ()


@pytest.mark.parametrize("revision", ["nope", "abcdef1", "0" * 40])
def test_an_unknown_revision(hub: HubStandIn, tmp_path: Path, revision: str) -> None:
    error = refused(tmp_path / "cache", revision)
    assert error.code == "hub-revision-unknown"
    assert revision in error.sentence
    assert not (tmp_path / "cache").exists()


def test_offline_is_refused_before_anything_is_asked(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    error = refused(tmp_path / "cache")
    assert (error.code, "HF_HUB_OFFLINE" in error.sentence) == ("hub-offline", True)
    assert hub.requests == []


def test_too_many_requests_are_told_with_the_time_to_wait(hub: HubStandIn, tmp_path: Path) -> None:
    hub.faults.append(Fault("api", status=429, headers=(("Retry-After", "77"),)))
    error = refused(tmp_path / "cache")
    assert (error.code, "77 s" in error.remedy) == ("hub-busy", True)
    hub.faults[:] = [Fault("api", status=429, headers=(("RateLimit", '"api";r=0;t=55'),))]
    assert "55 s" in refused(tmp_path / "cache").remedy
    assert not (tmp_path / "cache").exists()


def test_a_short_wait_is_waited(hub: HubStandIn, tmp_path: Path, no_waiting: list[float]) -> None:
    hub.faults.append(Fault("api", status=429, headers=(("Retry-After", "3"),), times=2))
    assert pull(tmp_path).problems == ()
    assert no_waiting == [3.0, 3.0]


def test_a_hub_that_fails_a_few_times_is_asked_again(
    hub: HubStandIn, tmp_path: Path, no_waiting: list[float]
) -> None:
    hub.faults.append(Fault("api", status=503, times=2))
    hub.faults.append(Fault(SHARD, "HEAD", status=502, times=1))
    hub.faults.append(Fault(SHARD, "GET", status=500, times=1))
    assert pull(tmp_path).problems == ()
    assert no_waiting == [0.5, 1.0, 0.5]


@pytest.mark.parametrize("place", ["api", SHARD])
def test_a_hub_that_goes_on_failing(
    hub: HubStandIn, tmp_path: Path, no_waiting: list[float], place: str
) -> None:
    hub.faults.append(Fault(place, method="" if place == "api" else "HEAD", status=500))
    error = refused(tmp_path)
    assert error.code == "hub-failed"
    assert "HTTP 500" in error.sentence
    assert (SHARD in error.sentence) == (place == SHARD)
    hub.faults.clear()
    assert pull(tmp_path).problems == ()


def test_a_proxys_page_is_no_hub(hub: HubStandIn, tmp_path: Path) -> None:
    hub.faults.append(Fault("api", status=200))  # its body is no JSON
    error = refused(tmp_path / "cache")
    assert (error.code, "not as a hub" in error.sentence) == ("hub-unreachable", True)


def test_no_hub_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    error = refused(tmp_path / "cache")
    assert error.code == "hub-unreachable"
    assert "HTTPS_PROXY" in error.remedy
    monkeypatch.setenv("HTTP_PROXY", "http://me:word@127.0.0.1:10")
    error = refused(tmp_path / "cache")
    assert "http://127.0.0.1:10" in error.remedy
    assert "word" not in error.remedy
    assert not (tmp_path / "cache").exists()


def test_a_hub_that_never_answers(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_waiting: list[float]
) -> None:
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "1")
    monkeypatch.setattr("hpcvlm.snapshots.pull.hub_api._ATTEMPTS", 1)
    hub.faults.append(Fault("api", silent=True))
    error = refused(tmp_path / "cache")
    assert error.code == "hub-unreachable"
    assert "Timeout" in error.details[0]


def test_a_file_that_is_gone_from_the_hub(hub: HubStandIn, tmp_path: Path) -> None:
    missing = (("X-Error-Code", "EntryNotFound"),)
    hub.faults.append(Fault("config.json", status=404, headers=missing))
    error = refused(tmp_path)
    assert error.code == "hub-entry-unknown"
    assert "config.json" in error.sentence


def test_a_name_that_is_none(hub: HubStandIn, tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError) as caught:
        prepare_pull(PullRequest("a b/c", None, str(tmp_path)), Context())
    assert caught.value.code == "option-invalid"


@pytest.mark.parametrize("path", ["../../evil", "a/../../../evil", "/etc/evil"])
def test_a_hub_cannot_write_outside(hub: HubStandIn, tmp_path: Path, path: str) -> None:
    hub.put(REPO, "main", {"config.json": b"{}", path: b"x"})
    error = refused(tmp_path / "cache")
    assert error.code == "hub-listing"
    assert not (tmp_path / "cache").exists()


# --- what comes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SHARD, "config.json"])
def test_wrong_content_is_named_and_not_kept(hub: HubStandIn, tmp_path: Path, path: str) -> None:
    right = model_files()[path]
    hub.faults.append(Fault(path, "GET", content=b"!" * len(right)))
    error = refused(tmp_path)
    assert error.code == "content-wrong"
    assert path in error.sentence
    assert hub.file_hash(right) in error.details[0]
    assert len(hub.gets_of(path)) == 2
    assert not (tmp_path / FOLDER / "blobs" / hub.file_hash(right)).exists()
    assert not (tmp_path / FOLDER / "snapshots" / hub.commit(REPO) / path).exists()
    assert leftovers(tmp_path) == []
    hub.faults.clear()
    assert pull(tmp_path).problems == ()


def test_content_that_was_wrong_once_is_fetched_once_more(hub: HubStandIn, tmp_path: Path) -> None:
    hub.faults.append(Fault(SHARD, "GET", content=b"!" * len(model_files()[SHARD]), times=1))
    done = pull(tmp_path)
    assert done.problems == ()
    assert (done.plan.path / SHARD).read_bytes() == model_files()[SHARD]


@pytest.mark.parametrize(("length", "method"), [(100, "HEAD"), (100, "GET"), (9000, "GET")])
def test_a_wrong_length_is_named(
    hub: HubStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    length: int,
    method: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    content = (b"!" * length) if method == "GET" else None
    hub.faults.append(Fault(SHARD, method, length=length, content=content))
    error = refused(tmp_path)
    assert error.code == "content-wrong"
    assert SHARD in error.sentence
    assert leftovers(tmp_path) == []


def test_a_connection_that_is_cut_goes_on_where_it_was(hub: HubStandIn, tmp_path: Path) -> None:
    mebi = 1 << 20
    files = {"config.json": b"{}", "model.safetensors": os.urandom(22 * mebi)}
    hub.put(REPO, "main", files)
    hub.faults.append(Fault("model.safetensors", "GET", cut_after=15 * mebi, times=1))
    done = pull(tmp_path)
    assert (done.plan.path / "model.safetensors").read_bytes() == files["model.safetensors"]
    ranges = [asked.range for asked in hub.gets_of("model.safetensors")]
    # huggingface_hub hands on pieces of 10 MiB: what came of the next one is lost.
    assert ranges == ["", f"bytes={10 * mebi}-"]


def test_a_connection_that_is_always_cut(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.faults.append(Fault(SHARD, "GET", cut_after=1000))
    error = refused(tmp_path)
    assert error.code == "hub-unreachable"
    assert SHARD in error.sentence
    commit = hub.commit(REPO)
    assert find_snapshot(REPO, commit, [tmp_path]) is not None
    assert not (tmp_path / FOLDER / "snapshots" / commit / SHARD).exists()
    hub.faults.clear()
    assert pull(tmp_path).problems == ()


def test_a_branch_never_names_a_half_snapshot_instead_of_a_whole_one(
    hub: HubStandIn, tmp_path: Path
) -> None:
    first = pull(tmp_path)
    new = model_files(size=6000)
    commit = hub.put(REPO, "main", new)
    hub.faults.append(Fault(SHARD, "GET", content=b"!" * len(new[SHARD])))
    refused(tmp_path)
    assert (tmp_path / FOLDER / "refs" / "main").read_text() == first.plan.commit
    found = find_stored(scan_cache(tmp_path), REPO, commit)
    assert found is not None
    assert read_listing(tmp_path / FOLDER, commit) is not None
    hub.faults.clear()
    pull(tmp_path)
    assert (tmp_path / FOLDER / "refs" / "main").read_text() == commit


def test_what_a_dead_download_left_is_gone_on_from(hub: HubStandIn, tmp_path: Path) -> None:
    content = model_files()[SHARD]
    name = hub.file_hash(content)
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    left = blobs / f"{name}.1a2b3c4d.incomplete"
    left.write_bytes(content[:3000])
    os.utime(left, (0, 0))
    prepared = prepare_pull(PullRequest(REPO, None, str(tmp_path)), Context())
    assert prepared.plan.kept == 3000
    do_pull(prepared)
    assert [asked.range for asked in hub.gets_of(SHARD)] == ["bytes=3000-"]
    assert (blobs / name).read_bytes() == content
    assert list(blobs.glob("*.incomplete")) == []


def test_what_a_living_process_gave_up_is_gone_on_from(hub: HubStandIn, tmp_path: Path) -> None:
    content = model_files()[SHARD]
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    wanted = ListedFile(SHARD, len(content), hub.file_hash(content))
    (blobs / f"{wanted.hub_hash}.{gethostname()}-{os.getpid()}.incomplete").write_bytes(content[:9])
    give_up(blobs, wanted)
    (left,) = blobs.iterdir()
    assert left.name == f"{wanted.hub_hash}.{gethostname()}-0.incomplete"
    pull(tmp_path)
    assert [asked.range for asked in hub.gets_of(SHARD)] == ["bytes=9-"]
    assert list(blobs.glob("*.incomplete")) == []


def test_what_a_dying_process_has_left_is_waited_for(hub: HubStandIn, tmp_path: Path) -> None:
    content = model_files()[SHARD]
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    with subprocess.Popen(["sleep", "0.2"]) as dying:
        name = f"{hub.file_hash(content)}.{gethostname()}-{dying.pid}.incomplete"
        (blobs / name).write_bytes(content[:9])
        wanted = ListedFile(SHARD, len(content), hub.file_hash(content))
        threading.Thread(target=dying.wait).start()
        assert own_partial(blobs, wanted, None).read_bytes() == content[:9]


def test_a_failed_download_belongs_to_nobody(
    hub: HubStandIn, tmp_path: Path, no_waiting: list[float]
) -> None:
    hub.faults.append(Fault(SHARD, "GET", status=404))
    with pytest.raises(HpcvlmError):
        pull(tmp_path)
    left = [path.name for path in (tmp_path / FOLDER / "blobs").glob("*.incomplete")]
    assert all(name.endswith(f".{gethostname()}-0.incomplete") for name in left)
    assert left


def test_a_wrong_beginning_costs_a_second_download_and_nothing_else(
    hub: HubStandIn, tmp_path: Path
) -> None:
    content = model_files()[SHARD]
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    left = blobs / f"{hub.file_hash(content)}.1a2b3c4d.incomplete"
    left.write_bytes(b"!" * 3000)
    os.utime(left, (0, 0))
    done = pull(tmp_path)
    assert (done.plan.path / SHARD).read_bytes() == content
    assert [asked.range for asked in hub.gets_of(SHARD)] == ["bytes=3000-", ""]


def test_what_another_machine_still_writes_is_left_alone(hub: HubStandIn, tmp_path: Path) -> None:
    content = model_files()[SHARD]
    blobs = tmp_path / FOLDER / "blobs"
    blobs.mkdir(parents=True)
    other = blobs / f"{hub.file_hash(content)}.elsewhere-17.incomplete"
    other.write_bytes(content[:3000])
    pull(tmp_path)
    assert other.read_bytes() == content[:3000]
    assert [asked.range for asked in hub.gets_of(SHARD)] == [""]


def test_whoever_waits_for_another_pull_is_told(hub: HubStandIn, tmp_path: Path) -> None:
    prepared = prepare_pull(PullRequest(REPO, None, str(tmp_path)), Context())
    locks = tmp_path / ".locks" / FOLDER
    locks.mkdir(parents=True)
    waiting: list[int] = []
    with ExitStack() as other:
        other.enter_context(FileLock(locks / f"{hub.file_hash(model_files()[SHARD])}.lock"))

        def look(progress: Progress) -> None:
            waiting.append(progress.waiting)
            if progress.waiting:
                other.close()

        assert do_pull(prepared, look).problems == ()
    assert (max(waiting), waiting[-1]) == (1, 0)


# --- by Xet ------------------------------------------------------------------------------------


def by_xet(monkeypatch: pytest.MonkeyPatch, content: bytes, *, fails: bool = False) -> list[str]:
    """Have the shard come by Xet, whose server is not here; gives what it was asked for."""
    asked: list[str] = []

    def xet_get(*, incomplete_path: Path, displayed_filename: str, **_: object) -> None:
        asked.append(displayed_filename)
        with incomplete_path.open("r+b") as stream:
            stream.seek(1000)
            stream.write(content[1000:])
            if fails:
                raise RuntimeError("the chunk store is away")
            stream.seek(0)
            stream.write(content[:1000])

    def is_by_xet(metadata: huggingface_hub.HfFileMetadata) -> bool:
        return metadata.etag == hashlib.sha256(model_files()[SHARD]).hexdigest()

    monkeypatch.setattr("hpcvlm.snapshots.pull.fetch._by_xet", is_by_xet)
    monkeypatch.setattr("huggingface_hub.file_download.xet_get", xet_get)
    return asked


def test_what_xet_brings_is_checked_as_well(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = model_files()[SHARD]
    asked = by_xet(monkeypatch, b"!" * len(right))
    error = refused(tmp_path)
    assert error.code == "content-wrong"
    assert leftovers(tmp_path) == []
    assert asked == [SHARD] * 2
    assert hub.gets_of(SHARD) == []
    by_xet(monkeypatch, right)
    assert pull(tmp_path).problems == ()
    assert hub.gets_of(SHARD) == []


def test_what_xet_cannot_bring_comes_by_http(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = by_xet(monkeypatch, model_files()[SHARD], fails=True)
    assert pull(tmp_path).problems == ()
    assert asked == [SHARD]
    # Its chunks come in any order: they are no beginning to go on from.
    assert [asked.range for asked in hub.gets_of(SHARD)] == [""]
    assert leftovers(tmp_path) == []


# --- single files ------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_listing", [True, False])
def test_single_files_are_fetched_anew(hub: HubStandIn, tmp_path: Path, kept_listing: bool) -> None:
    done = pull(tmp_path)
    before = tree(tmp_path)
    if not kept_listing:
        (tmp_path / FOLDER / ".hpcvlm" / "listings" / f"{done.plan.commit}.json").unlink()
        before = tree(tmp_path)
    blob = (done.plan.path / SHARD).resolve()
    blob.write_bytes(b"!" * blob.stat().st_size)
    (done.plan.path / "config.json").unlink()
    hub.requests.clear()
    fetch_files(REPO, done.plan.commit, [SHARD, "config.json"], tmp_path)
    assert tree(tmp_path) == before
    asked = {asked.file for asked in hub.requests}
    assert asked == {SHARD, "config.json"} | (set() if kept_listing else {"api"})


def test_a_damaged_blob_stays_until_there_is_a_right_one(hub: HubStandIn, tmp_path: Path) -> None:
    done = pull(tmp_path)
    blob = (done.plan.path / SHARD).resolve()
    damaged = b"!" * blob.stat().st_size
    blob.write_bytes(damaged)
    hub.faults.append(Fault(SHARD, "GET", content=b"?" * len(damaged)))
    with pytest.raises(HpcvlmError) as caught:
        fetch_files(REPO, done.plan.commit, [SHARD], tmp_path)
    assert caught.value.code == "content-wrong"
    assert blob.read_bytes() == damaged


def test_a_single_file_that_the_commit_does_not_have(hub: HubStandIn, tmp_path: Path) -> None:
    done = pull(tmp_path)
    with pytest.raises(HpcvlmError) as caught:
        fetch_files(REPO, done.plan.commit, ["nope.bin"], tmp_path)
    assert caught.value.code == "hub-entry-unknown"


# --- the store ---------------------------------------------------------------------------------


def modes(folder: Path) -> tuple[set[int], set[int]]:
    """Modes of the folders and of the files of a repository."""
    found = [path.lstat().st_mode for path in (folder, *folder.rglob("*"))]
    kinds = (stat.S_ISDIR, stat.S_ISREG)
    first, second = ({stat.S_IMODE(mode) for mode in found if kind(mode)} for kind in kinds)
    return first, second


@pytest.mark.parametrize(
    ("access", "folders", "files"),
    [("group", 0o2750, 0o640), ("world", 0o2755, 0o644), ("private", 0o700, 0o600)],
)
def test_the_stores_policy_holds_for_everything_that_comes(
    hub: HubStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    access: str,
    folders: int,
    files: int,
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(f"store:\n  folder: {tmp_path}/store\n  access: {access}\n")
    monkeypatch.setenv("HPCVLM_SITE", str(site))
    before = os.umask(0o002)
    try:
        do_pull(prepare_pull(PullRequest(REPO), Context()))
    finally:
        os.umask(before)
    assert modes(tmp_path / "store" / FOLDER) == ({folders}, {files})


def test_the_users_own_cache_goes_by_their_umask(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "own"))
    before = os.umask(0o027)
    try:
        do_pull(prepare_pull(PullRequest(REPO), Context()))
    finally:
        os.umask(before)
    assert modes(tmp_path / "own" / FOLDER) == ({0o750}, {0o640})


def test_locks_of_a_store_that_a_group_keeps_are_for_the_group(
    hub: HubStandIn, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    store.chmod(0o2770)
    pull(store)
    assert stat.S_IMODE((store / ".locks").stat().st_mode) == 0o2770
    assert stat.S_IMODE((store / FOLDER).stat().st_mode) == 0o2750


def test_room_is_counted_before_anything_is_made(tmp_path: Path) -> None:
    room = room_at(tmp_path / "not" / "there")
    check_room(tmp_path, 0, 0)
    with pytest.raises(HpcvlmError) as caught:
        check_room(tmp_path, room.free * 2, 1)
    assert caught.value.code == "store-space"
    assert f"{room.free * 2 + int(room.free * 2 * 0.01):,} bytes are needed" in (
        caught.value.sentence
    )
    if room.inodes is not None:
        with pytest.raises(HpcvlmError) as caught:
            check_room(tmp_path, 1, room.inodes)
        assert caught.value.code == "store-inodes"


def test_a_cache_that_is_a_file(hub: HubStandIn, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("x")
    assert refused(tmp_path / "cache").code == "store-unwritable"


def test_the_listing_is_there_before_the_first_byte(hub: HubStandIn, tmp_path: Path) -> None:
    hub.faults.append(Fault("*", status=404, headers=(("X-Error-Code", "EntryNotFound"),)))
    refused(tmp_path)
    listing = tmp_path / FOLDER / ".hpcvlm" / "listings" / f"{hub.commit(REPO)}.json"
    listed = {file["path"] for file in json.loads(listing.read_text())["files"]}
    assert listed == set(model_files()) - LEFT_OUT
    assert not any(path.stat().st_size for path in (tmp_path / FOLDER / "blobs").iterdir())
