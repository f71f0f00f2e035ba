"""Images of some kilobytes that answer as an engine's image does, built by a real Apptainer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.realparts import set_up
from tests.registry_stand_in import SmallImage, small_image

_REAL_ENVIRONMENT = dict(os.environ)
KEY_NAME, KEY_MAIL = "Site Admin", "admin@example.org"


def need_parts() -> str:
    """The path of a static busybox; a test that needs it is skipped, with the reason, without."""
    set_up("apptainer.sh", environment=_REAL_ENVIRONMENT)
    found = shutil.which("busybox")
    if found is None:
        pytest.skip("busybox-static is not installed (scripts/setup/podman.sh installs it)")
    return found


def definition(
    folder: Path, version: str = "0.10.2", *, cuda: str = "12.8", post: str = "", more: str = ""
) -> Path:
    """A definition whose image has a shell, and a python3 that knows the versions of packages."""
    busybox = need_parts()
    facts = {
        "engine": version,
        "torch": "2.8.0",
        "transformers": "4.55.2",
        "python": "3.12.3",
        "cuda": cuda,
        "hip": "",
        "architecture": "x86_64",
    }
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python3"
    python.write_text(
        f"#!/bin/sh\ncase $2 in *json*) echo '{json.dumps(facts)}';; *) echo '{version}';; esac\n"
    )
    python.chmod(0o755)
    file = folder / "image.def"
    file.write_text(
        f"""Bootstrap: scratch

%setup
    cd "$APPTAINER_ROOTFS"
    mkdir -p usr/bin etc proc sys dev tmp var/tmp run root home opt mnt srv
    for name in bin sbin lib lib64; do ln -sfn "usr/$name" "$name"; done
    mkdir -p usr/sbin usr/lib usr/lib64
    chmod 1777 tmp var/tmp
    touch etc/passwd etc/group etc/hosts etc/resolv.conf etc/localtime
    cp {busybox} usr/bin/busybox
    for name in sh cat ls echo env true; do ln -s busybox "usr/bin/$name"; done
    cp {python} usr/bin/python3

%labels
    org.hpcvlm.engine vllm
    org.hpcvlm.version {version}
{more}
"""
        + (f"\n%post\n    {post}\n" if post else "")
    )
    return file


def image(folder: Path, version: str = "0.10.2", name: str = "", *, cuda: str = "12.8") -> Path:
    """A small image, built."""
    file = definition(folder / "def", version, cuda=cuda)
    made = folder / (name or f"vllm-{version}.sif")
    done = subprocess.run(
        ["apptainer", "build", "--force", made, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return made


def key_ring(folder: Path) -> str:
    """A throw-away keyring with one key pair; gives the fingerprint.

    Args:
        folder: for APPTAINER_KEYSDIR.
    """
    need_parts()
    environment = {**os.environ, "APPTAINER_KEYSDIR": str(folder)}
    options = ("-N", KEY_NAME, "-E", KEY_MAIL, "-C", "test", "-P", "", "--push=false")
    subprocess.run(
        ["apptainer", "key", "newpair", *options], env=environment, check=True, capture_output=True
    )
    listed = subprocess.run(
        ["apptainer", "key", "list"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    (line,) = (line for line in listed.splitlines() if "Fingerprint" in line)
    return line.split()[-1]


def altered(source: Path, target: Path) -> Path:
    """A copy with one byte of its file system changed."""
    shutil.copy(source, target)
    content = bytearray(target.read_bytes())
    # The file system is the last object, page-aligned; a signature comes after it.
    at = len(content) * 3 // 4
    content[at] ^= 1
    target.write_bytes(content)
    return target


def registry_image(version: str = "0.10.2") -> SmallImage:
    """The same as a registry has it."""
    busybox = Path(need_parts()).read_bytes()
    facts = {"engine": version, "python": "3.12.3", "cuda": "12.8", "architecture": "x86_64"}
    python = (
        f"#!/bin/sh\ncase $2 in *json*) echo '{json.dumps(facts)}';; *) echo '{version}';; esac\n"
    )
    names = ("sh", "cat", "ls", "echo", "env", "true", "sed", "test", "[")
    return small_image(
        {"bin/busybox": busybox, "bin/python3": python.encode()},
        {f"bin/{name}": "busybox" for name in names},
    )
