"""Folders, quotas, file systems and hub caches, judged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.doctor import mounts, storage
from hpcvlm.doctor.model import Answer, Question, Status, matches, one_line, size

Q = Question("id", "part", "title")
GIB = 1 << 30
KIB = 1 << 10

# /proc/self/mountinfo, lines as they stand on clusters; the BeeGFS one as the mount output in
# the notes of the BeeGFS CSI driver names it.
MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 0:50 / /home rw,relatime shared:20 - nfs4 server:/home rw,vers=4.2
41 40 0:51 / /home/user/my\\040data rw shared:21 - lustre 10.0.0.1@o2ib:/scratch rw,flock
42 27 0:52 / /gpfs/scratch rw,relatime shared:22 - gpfs scratch rw
43 27 0:53 / /mnt/beegfs rw,relatime - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/client.conf
44 27 0:54 / /stack rw - ext4 /dev/sdb1 rw
45 27 0:55 / /stack rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home", "nfs4"),
        ("/home/user/x", "nfs4"),
        ("/home/user/my data/hub", "lustre"),
        ("/home/user/my databases", "nfs4"),
        ("/homes", "ext4"),
        ("/gpfs/scratch/hub", "gpfs"),
        ("/mnt/beegfs/hub", "beegfs"),
        ("/stack/x", "tmpfs"),
    ],
)
def test_the_longest_mount_that_covers_a_path(path: str, expected: str) -> None:
    mount = mounts.mount_of(path, mounts.parse_mountinfo(MOUNTINFO))
    assert mount is not None
    assert mount.type == expected


@pytest.mark.parametrize(
    ("fstype", "versions", "status", "words"),
    [
        ("ext4", ["0.10.2"], Status.OK, "no option"),
        ("lustre", ["0.19.0", "0.33.0"], Status.OK, "by itself"),
        ("nfs4", ["0.33.0"], Status.OK, "by itself"),
        ("gpfs", ["0.33.0"], Status.WARNING, "safetensors-load-strategy=prefetch"),
        ("beegfs", ["0.19.0"], Status.WARNING, "safetensors-load-strategy=prefetch"),
        ("lustre", ["0.18.0", "0.33.0"], Status.WARNING, "safetensors-load-strategy=prefetch"),
        ("lustre", ["0.10.2"], Status.WARNING, "safetensors-load-strategy=eager"),
        ("lustre", ["0.9.1"], Status.WARNING, "cat SNAPSHOT"),
        ("gpfs", [], Status.WARNING, "prefetch"),
    ],
)
def test_how_weights_are_read(fstype: str, versions: list[str], status: Status, words: str) -> None:
    check = mounts.judge_weights_on(Q, "/hub", fstype, versions)
    assert check.status is status
    assert words in check.evidence + check.remedy


def folder(**over: object) -> storage.FolderSeen:
    values = {"tried": "/s", "free": 100 * GIB, "inodes": 10**6, "mode": 0o40700, **over}
    return storage.FolderSeen(**values)  # type: ignore[arg-type]


def test_writing() -> None:
    ok = storage.judge_writable(Q, "/s", folder(seconds=0.02), "HPCVLM_STATE")
    assert (ok.status, "0.020 s" in ok.evidence) == (Status.OK, True)
    later = storage.judge_writable(Q, "/s/x", folder(), "HPCVLM_STATE")
    assert "where /s/x is made when it is needed" in later.evidence
    bad = storage.judge_writable(Q, "/s", folder(problem="Read-only file system"), "HPCVLM_STATE")
    assert (bad.status, bad.remedy) == (Status.FAILED, "set HPCVLM_STATE to a folder of yours")


@pytest.mark.parametrize(
    ("seen", "status"),
    [
        (folder(), Status.OK),
        (folder(inodes=None), Status.OK),
        (folder(free=10), Status.WARNING),
        (folder(inodes=9), Status.WARNING),
        (folder(free=None), Status.UNKNOWN),
        (storage.FolderSeen(problem="Permission denied"), Status.SKIPPED),
    ],
)
def test_room(seen: storage.FolderSeen, status: Status) -> None:
    check = storage.judge_space(Q, "/s", seen, 5 * GIB)
    assert check.status is status
    assert "5.0 GiB" in check.evidence or status in {Status.UNKNOWN, Status.SKIPPED}


def test_privacy() -> None:
    assert storage.judge_private(Q, "/s", folder(), 0o022).status is Status.OK
    assert storage.judge_private(Q, "/s", folder(mode=None), 0o022).status is Status.OK
    open_ = storage.judge_private(Q, "/s", folder(mode=0o40755), 0o022)
    assert (open_.status, open_.remedy) == (Status.WARNING, "chmod 700 /s")
    assert "0755" in open_.evidence
    closed = storage.FolderSeen(problem="Permission denied")
    assert storage.judge_private(Q, "/s", closed, 0o022).status is Status.SKIPPED
    assert storage.judge_clock(Q, closed).status is Status.SKIPPED
    foreign = storage.judge_private(Q, "/s", folder(owned=False), 0o022)
    assert foreign.status is Status.FAILED


@pytest.mark.parametrize(
    ("offset", "error", "status"),
    [
        (0.4, 1.0, Status.OK),
        (-5.5, 1.0, Status.OK),
        (7.0, 1.0, Status.WARNING),
        (-400.0, 1.0, Status.FAILED),
        (100.0, 99.0, Status.OK),
    ],
)
def test_clocks(offset: float, error: float, status: Status) -> None:
    check = storage.clock_check(Q, offset, error, "one", "other")
    assert check.status is status
    assert ("ahead of" if offset > 0 else "behind") in check.evidence


def test_shared_memory_and_temporary_files() -> None:
    assert storage.judge_shm(Q, 24 * GIB, 24 * GIB).status is Status.OK
    assert storage.judge_shm(Q, 64 << 20, 64 << 20).status is Status.WARNING  # docker's default
    assert storage.judge_shm(Q, None, None).status is Status.FAILED
    long = "/" + "x" * 80
    for path, writable, status in [
        ("/tmp", True, Status.OK),
        ("/tmp", False, Status.FAILED),
        (long, True, Status.WARNING),
    ]:
        check = storage.judge_scratch(Q, path, writable=writable, free=GIB, named="TMPDIR")
        assert check.status is status


# quota(1) of the Linux quota tools, -w; the * stands behind what is over a limit.
QUOTA = """\
Disk quotas for user ann (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
nfs.example.org:/export/home 47185920  52428800 57671680           12000  900000 1000000
"""
QUOTA_OVER = """\
Disk quotas for user wp (uid 500):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
      /dev/hda6      10*     8      10   6days       1      10      10
"""
# lfs-quota(1), -q; a long name has a line of its own.
LUSTRE = "/lustre 1048576  10485760 10485760       - 950000  1000000 1000000       -\n"
LUSTRE_LONG = "/lustre/very/long/name\n  1048576*  1048576 1048576  6d23h 5  0 0  -\n"
NO_LIMIT = "/lustre 1048576  0 0 - 5  0 0  -\n"


def test_quota_lines() -> None:
    [line] = storage.parse_quota(QUOTA)
    assert (line.used, line.limit) == (47185920 * KIB, 57671680 * KIB)
    assert (line.files, line.files_limit) == (12000, 1000000)
    [over] = storage.parse_quota(QUOTA_OVER)
    assert (over.where, over.used, over.limit, over.files) == ("/dev/hda6", 10240, 10240, 1)
    [long] = storage.parse_quota(LUSTRE_LONG)
    assert (long.where, long.used, long.files) == ("/lustre/very/long/name", GIB, 5)
    [free] = storage.parse_quota(NO_LIMIT)
    assert (free.limit, free.files_limit) == (None, None)
    assert storage.parse_quota("Disk quotas for user root (uid 0): none\n") == []


@given(st.text(alphabet="/:* -d0123456789a\n", max_size=80))
def test_whatever_quota_prints_is_read(text: str) -> None:
    assert storage.judge_quota(Q, "/home", [("quota", Answer(0, text))], None).evidence


@given(st.text(max_size=80))
def test_whatever_mountinfo_holds_is_read(text: str) -> None:
    mounts.mount_of("/a", mounts.parse_mountinfo(text + "\n27 1 254:0 / / rw - ext4 /dev/vda rw"))


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Answer(0, QUOTA), Status.OK, "45 GiB of 55 GiB, 12,000 of 1,000,000 files"),
        (Answer(1, QUOTA_OVER), Status.FAILED, "10 KiB of 10 KiB"),
        (Answer(0, LUSTRE), Status.WARNING, "950,000 of 1,000,000 files"),
        (Answer(0, LUSTRE_LONG), Status.FAILED, "1.0 GiB of 1.0 GiB"),
        (Answer(0, NO_LIMIT), Status.OK, "no limit"),
        (Answer(0, "Disk quotas for user a (uid 1): none\n"), Status.OK, "no limit"),
        (Answer(127), Status.UNKNOWN, "there is no quota command; the file system has 1.0 GiB"),
        (Answer(124, "", "quota: no answer within 15 s"), Status.UNKNOWN, "no answer"),
        (Answer(1, "", "quota: cannot find filesystem\n"), Status.UNKNOWN, "cannot find"),
    ],
)
def test_quotas(answer: Answer, status: Status, words: str) -> None:
    check = storage.judge_quota(Q, "/home/ann", [("quota", answer)], GIB)
    assert check.status is status
    assert words in check.evidence


@pytest.mark.parametrize(
    ("seen", "of_site", "status", "words"),
    [
        (storage.HubSeen(exists=False), True, Status.FAILED, "is not there"),
        (storage.HubSeen(exists=False), False, Status.SKIPPED, "not there yet"),
        (storage.HubSeen(problem="Permission denied"), False, Status.FAILED, "Permission denied"),
        (storage.HubSeen(whole=("a/b",)), True, Status.OK, "1 complete (a/b)"),
        (storage.HubSeen(), True, Status.OK, "is empty"),
        (storage.HubSeen(left=7, whole=("a/b",)), True, Status.OK, "7 snapshots were not looked"),
        (
            storage.HubSeen(whole=("a/b",), broken=(("c/d", "x: its blob is missing"),)),
            True,
            Status.WARNING,
            "1 not: c/d; c/d: x: its blob is missing",
        ),
    ],
)
def test_hub_caches(seen: storage.HubSeen, of_site: bool, status: Status, words: str) -> None:
    check = storage.judge_hub(Q, "/hub", seen, of_site=of_site)
    assert check.status is status
    assert words in check.evidence


def test_evidence_is_one_line_without_passwords() -> None:
    text = "a\n\tb \x1b[31m http://me:secret@proxy:3128/x"
    assert one_line(text) == "a b [31m http://…@proxy:3128/x"
    assert "secret" not in Q.ok(text).evidence
    assert len(Q.ok("x" * 5000).evidence) == 200
    assert Answer(1, "out\n", "first\n last \n").said == "last"


def test_ids_and_sizes() -> None:
    assert matches("gpu-job:short", ["gpu-job"])
    assert matches("gpu-job:short", ["gpu-job:short"])
    assert not matches("gpu-job:short", ["gpu-job:gpu", "gpu"])
    assert not matches("node-gpus", ["node"])
    assert [size(n) for n in (0, 1023, 1536, 24 * GIB, 5 << 40)] == [
        *("0 B", "1023 B", "1.5 KiB", "24 GiB", "5.0 TiB")
    ]
