"""Tells pickles by their content: loading one runs whatever its author wrote into it.

A pickle of protocol 2 to 5 begins with the opcode PROTO and its number (Python's pickletools). What
torch.save writes is a ZIP with ``data.pkl`` in it (pytorch.org, "Serialization semantics"); before
PyTorch 1.6 it was a bare pickle.
"""

from __future__ import annotations

import os
import pickletools
import stat
import zipfile
from pathlib import Path

from hpcvlm.snapshots.listing.completeness import open_quietly

ENDINGS = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_PROTO = 0x80
_PROTOCOLS = range(2, 6)
_ZIP = b"PK\x03\x04"
_HEAD = 64
_TORCH_MAGIC = ".pkl"
_LENGTH_BYTES = 8  # of a safetensors file; its header begins right after with a brace
_FEW = 5  # opcodes that make sense one after the other


def pickle_kind(path: Path) -> str:
    """What kind of pickle a file is, in some words; empty when it is none.

    Args:
        path: a file. Files of the old protocols 0 and 1, which have no mark of their own, are told
            only by their names (`ENDINGS`) and opcodes.

    Raises:
        OSError: it cannot be read.
    """
    descriptor = open_quietly(path)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        head = os.pread(descriptor, _HEAD, 0)
        if head.startswith(_ZIP):
            return _in_zip(descriptor)
        if _is_safetensors(head):
            return ""
        if len(head) > 1 and head[0] == _PROTO and head[1] in _PROTOCOLS:
            return f"a pickle of protocol {head[1]}" if _makes_sense(head) else ""
        if path.name.endswith(ENDINGS) and head and _makes_sense(head):
            return "a pickle of protocol 0 or 1"
    finally:
        os.close(descriptor)
    return ""


def _in_zip(descriptor: int) -> str:
    try:
        with (
            os.fdopen(descriptor, "rb", closefd=False) as stream,
            zipfile.ZipFile(stream) as archive,
        ):
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return ""
    inside = next((name for name in names if name.endswith(_TORCH_MAGIC)), "")
    return f"a ZIP with the pickle {inside}, as torch.save writes it" if inside else ""


def _is_safetensors(head: bytes) -> bool:
    """The length of its header may begin with the same bytes as a pickle."""
    return head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and not any(
        head[_LENGTH_BYTES - 3 : _LENGTH_BYTES]
    )


def _makes_sense(head: bytes) -> bool:
    """Whether the first opcodes are a pickle's; the beginning of a file may cut one short."""
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(head):
            count += 1
            if count >= _FEW or opcode.name == "STOP":
                return True
    except ValueError as error:
        # The first opcode that the beginning does not hold whole.
        return count > 0 and ("not enough data" in str(error) or "exhausted" in str(error))
    except Exception:  # noqa: BLE001 - genops decodes whatever bytes there are
        return False
    return False
