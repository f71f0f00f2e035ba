"""Images: what is wrong with one, what a driver runs, what a launch may use."""

from __future__ import annotations

import json
import struct

import pytest

from hpcvlm.containers import judge, parse, sif
from hpcvlm.containers.failures import cause, telling_lines
from hpcvlm.containers.judge import SeenFile
from hpcvlm.containers.model import FileKey, ImageFacts, Remembered, Signature, Verification

KEY = "8A8D116AC3A86C89E65C3430E9D64557C9124FA3"
OTHER = "1111116AC3A86C89E65C3430E9D64557C9124FA3"
WHOLE = SeenFile("", False, 1000, 0o755, True, False, 900)


# ---- the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "code", "words"),
    [
        (SeenFile("No such file", True), "container-missing", "does not exist"),
        (SeenFile("Permission denied"), "container-invalid", "Permission denied"),
        (WHOLE._replace(is_sif=False), "container-invalid", "is no SIF file"),
        (WHOLE._replace(end=1001), "container-invalid", "cut off: 1000 of at least 1001 bytes"),
        (WHOLE._replace(mode=0o777), "container-writable", "by everybody"),
    ],
)
def test_a_file_that_is_no_image(seen: SeenFile, code: str, words: str) -> None:
    (found,) = judge.file_findings("/images/vllm-0.10.2.sif", "0.10.2", seen)
    assert found.code == code
    assert words in found.sentence
    assert found.remedy


def test_a_whole_image_and_a_sandbox_have_nothing_wrong() -> None:
    assert judge.file_findings("/i.sif", "", WHOLE) == []
    assert judge.file_findings("/i", "", SeenFile(is_folder=True, mode=0o755)) == []


@pytest.mark.parametrize(
    ("said", "found", "wrong"),
    [
        ("0.10.2", "0.10.2+cu128", False),
        ("0.10.2+rocm", "0.10.2+rocm700", False),
        ("0.10.2", "0.10.1", True),
        ("", "0.10.1", False),
        ("0.10.2", "", False),
    ],
)
def test_the_version_that_the_site_file_says(said: str, found: str, wrong: bool) -> None:
    finding = judge.version_finding("/i.sif", said, found, "asked inside")
    assert (finding is not None) == wrong
    if finding:
        assert "holds 0.10.1 (asked inside), and not 0.10.2" in finding.sentence


# ---- what has changed -------------------------------------------------------------------------


def remembered(digest: str) -> Remembered:
    return Remembered(FileKey("/i.sif", 1, 2, 3), digest, 0.0)


def test_a_replaced_file_and_a_broken_disk_are_told_apart() -> None:
    last = remembered("a" * 64)
    args = ("/i.sif", last, "b" * 64)
    replaced = judge.changed_finding(*args, untouched=False, since="2026-11-01")
    broken = judge.changed_finding(*args, untouched=True, since="2026-11-01")
    assert replaced
    assert broken
    assert "--accept" in replaced.remedy
    assert "nobody wrote it" in broken.sentence
    assert judge.changed_finding("/i.sif", last, "a" * 64, untouched=False, since="") is None
    assert judge.changed_finding("/i.sif", None, "a" * 64, untouched=False, since="") is None


# ---- signatures -------------------------------------------------------------------------------


def said(*, code: int = 0, intact: bool = True, known: bool = True, count: int = 1) -> Verification:
    """What Apptainer 1.4.5 prints."""
    signer = {
        "Partition": "FS",
        "Name": "Admin",
        "Fingerprint": KEY.lower(),
        "KeyLocal": True,
        "KeyCheck": True,
        "DataCheck": intact,
    }
    keys = [{"Signer": signer}] if known and count else None
    stdout = json.dumps({"Signatures": count, "SignerKeys": keys})
    stderr = "INFO:    Verifying image\nFATAL:   Failed to verify container: integrity: bad\n"
    return parse.parse_verification(code, stdout, stderr if code else "")


def test_a_good_signature_has_its_key() -> None:
    seen = said()
    assert seen.signers == (KEY,)
    assert judge.signature_findings("/i.sif", seen, (KEY,), "apptainer key") == []
    spaced = "0x" + " ".join(KEY[i : i + 4] for i in range(0, 40, 4)).lower()
    assert judge.signature_findings("/i.sif", seen, (spaced,), "apptainer key") == []


@pytest.mark.parametrize(
    ("seen", "signed_by", "code", "words"),
    [
        (said(code=255, intact=False), (), "container-altered", "altered since it was signed: FS"),
        (said(code=255, known=False), (), "container-unsigned", "not in your keyring"),
        (said(code=255), (), "container-altered", "integrity: bad"),
        (said(), (OTHER,), "container-unsigned", f"it is signed by {KEY}"),
        (said(code=255, count=0), (KEY,), "container-unsigned", "it has no good signature"),
    ],
)
def test_what_is_wrong_with_a_signature(
    seen: Verification, signed_by: tuple[str, ...], code: str, words: str
) -> None:
    (found,) = judge.signature_findings("/i.sif", seen, signed_by, "apptainer key")
    assert found.code == code
    assert words in found.sentence


def test_no_signature_is_wrong_only_where_one_is_asked_for() -> None:
    assert judge.signature_findings("/i.sif", said(code=255, count=0), (), "apptainer key") == []


def test_one_bad_object_spoils_all_signatures() -> None:
    good = Signature(KEY, "Admin", "Def.FILE", intact=True)
    seen = Verification(True, 1, (good, good._replace(part="FS", intact=False)))
    assert seen.signers == ()


@pytest.mark.parametrize(
    ("signers", "code"),
    [(None, "container-unverified"), ((), "container-unsigned"), ((OTHER,), "container-unsigned")],
)
def test_a_launch_is_refused_without_the_signature(
    signers: tuple[str, ...] | None, code: str
) -> None:
    (found,) = judge.policy_findings("/i.sif", "0.10.2", (KEY,), signers)
    assert found.code == code
    assert "0.10.2" in found.remedy


def test_a_launch_is_let_go_with_it_or_where_none_is_asked_for() -> None:
    assert judge.policy_findings("/i.sif", "0.10.2", (OTHER, KEY), (KEY,)) == []
    assert judge.policy_findings("/i.sif", "0.10.2", (), None) == []


# ---- drivers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "driver", "wrong"),
    [
        ("12.8", "525.60.13", False),
        ("12.8", "520.61.05", True),
        ("13.0", "550.54.15", True),
        ("13", "580.65.06", False),
        ("", "470.1", False),
        ("12.8", "", False),
        ("42.0", "1.0", False),
    ],
)
def test_drivers(cuda: str, driver: str, wrong: bool) -> None:
    assert (judge.driver_finding(cuda, driver, compatible=False) is not None) == wrong


def test_compatibility_libraries_are_offered_where_they_can_help() -> None:
    def remedy(driver: str, *, compatible: bool) -> str:
        found = judge.driver_finding("13.0", driver, compatible=compatible)
        assert found
        return found.remedy

    assert "VLLM_ENABLE_CUDA_COMPATIBILITY" in remedy("570.1", compatible=True)
    assert "VLLM_ENABLE_CUDA_COMPATIBILITY" not in remedy("550.1", compatible=True)
    assert "VLLM_ENABLE_CUDA_COMPATIBILITY" not in remedy("570.1", compatible=False)


def test_cuda_is_the_image_s_own_word_else_that_of_the_official_images() -> None:
    assert judge.cuda_of(ImageFacts(cuda="12.6"), "0.33.0") == ("12.6", "read inside")
    assert judge.cuda_of(ImageFacts(hip="7.0"), "0.33.0")[0] == ""
    assert judge.cuda_of(None, "0.19.1")[0] == "12"
    assert judge.cuda_of(None, "0.20.0")[0] == "13"
    assert judge.cuda_of(None, "0.20.0+rocm")[0] == ""
    assert judge.cuda_of(None, "local build") == ("", "")


# ---- what runtimes say ------------------------------------------------------------------------


def test_facts_come_after_what_a_container_says_of_itself() -> None:
    line = json.dumps({"engine": "0.10.2", "cuda": None, "python": "3.12.3"})
    facts = parse.parse_facts(f"== NVIDIA ==\n{{not json}}\n{line}\n")
    assert facts == ImageFacts(engine="0.10.2", python="3.12.3")
    assert parse.parse_facts("bash: python3: not found\n") is None


def test_labels_of_both_kinds_of_runtime() -> None:
    apptainer = {"data": {"attributes": {"labels": {"a": "1"}}}, "type": "container"}
    assert parse.parse_labels(json.dumps(apptainer)) == {"a": "1"}
    assert parse.parse_labels('{"a": "1"}') == {"a": "1"}
    assert parse.parse_labels("null") == {}
    assert parse.parse_labels("") == {}


# ---- SIF --------------------------------------------------------------------------------------


def header(magic: bytes = b"SIF_MAGIC\0", total: int = 1, offset: int = 128) -> bytes:
    numbers = (0, 0, 0, total, offset, 585 * total, 0, 0)
    return struct.pack("<32s10s3s3s16s8q", b"#!", magic, b"01\0", b"02\0", b"", *numbers)


def descriptor(kind: int, *, start: int, size: int, extra: bytes = b"") -> bytes:
    numbers = (start, size, size, 0, 0, 0, 0)
    return struct.pack("<i?3I7q128s384s", kind, True, 1, 1, 0, *numbers, b"", extra)


def test_a_sif_tells_its_end_and_its_signers() -> None:
    extra = struct.pack("<i", 1) + bytes.fromhex(KEY)
    head = header(total=2) + descriptor(0x4004, start=5000, size=100)
    head += descriptor(0x4005, start=6000, size=50, extra=extra)
    found = sif.parse_sif(head)
    assert found
    assert (found.architecture, found.end, found.signatures) == ("x86_64", 6050, 1)
    assert found.signers == (KEY,)


@pytest.mark.parametrize(
    "head", [b"", b"x" * 40, header(magic=b"SIF_MAGIX\0"), header()[:100]], ids=range(4)
)
def test_what_is_no_sif(head: bytes) -> None:
    assert sif.parse_sif(head) is None


@pytest.mark.parametrize("offset", [-5, 1 << 60, 128])
def test_a_broken_table_is_read_as_far_as_it_goes(offset: int) -> None:
    found = sif.parse_sif(header(total=1 << 40, offset=offset) + b"\0" * 100)
    assert found
    assert found.signatures == 0


# ---- why a build failed -----------------------------------------------------------------------

REGISTRY = "FATAL:   While performing build: conveyor failed to get: GET http://mirror:5000/v2/"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"{REGISTRY}x: UNAUTHORIZED: authentication required", "registry-refused"),
        (f"{REGISTRY}x: MANIFEST_UNKNOWN: manifest unknown", "container-missing"),
        (f"{REGISTRY}x: unexpected status code 500 Internal Server", "registry-unreachable"),
        ("FATAL: error writing layer: unexpected EOF", "registry-unreachable"),
        ("FATAL: lookup index.docker.io: no such host", "registry-unreachable"),
        ("FATAL: toomanyrequests: You have reached your pull rate limit", "registry-unreachable"),
        ("FATAL: error writing layer: error verifying sha256 checksum", "container-altered"),
        ('FATAL: manifest digest: "a" does not match requested digest: "b"', "container-altered"),
        ("FATAL: write /tmp/x: no space left on device", "container-space"),
        ("FATAL: while running %post section: exit status 3", ""),
    ],
)
def test_causes(line: str, code: str) -> None:
    found = cause((line,), runtime="apptainer", host="mirror:5000")
    assert (found.code if found else "") == code
    if found:
        assert "{" not in found.sentence + found.remedy


def test_a_failure_without_a_registry_blames_none() -> None:
    assert cause(("FATAL: exit status 401",), runtime="apptainer", host="") is None


def test_telling_lines_leave_out_the_noise() -> None:
    log = (
        "INFO:    Starting\n+ cd /tmp\nhpcvlm: building\nE: no package\rx\nFATAL:   exit status 3\n"
    )
    assert telling_lines(log) == ("E: no package", "FATAL:   exit status 3")
    assert telling_lines("just\nwords\n") == ("just", "words")
    assert telling_lines("") == ()
