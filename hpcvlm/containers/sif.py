"""Reads the head of a SIF file: architecture, age, signatures, where it must end. Pure.

The layout is that of github.com/apptainer/sif (pkg/sif/sif.go): a launch line of 32 bytes, the
header, then a table of descriptors, little-endian.
"""

from __future__ import annotations

import struct

from hpcvlm.containers.model import SifHeader

# Enough for the header and the 48 descriptors that Apptainer reserves, which end at 32176.
HEAD_BYTES = 65536
_MAGIC = b"SIF_MAGIC\0"
# launch line, magic, version, architecture, id, created, modified, then free and total
# descriptors, their offset and length, offset and length of the data.
_HEADER = struct.Struct("<32s10s3s3s16s8q")
# type, used, id, group, link, offset, size, padded size, created, modified, uid, gid, name, extra
_DESCRIPTOR = struct.Struct("<i?3I7q128s384s")
_SIGNATURE = 0x4005
# The extra of a signature: kind of hash, then the signer's fingerprint.
_FINGERPRINT = slice(4, 24)
_MOST_DESCRIPTORS = 1024
_ARCHITECTURES = {b"01": "i386", b"02": "x86_64", b"03": "arm", b"04": "aarch64", b"06": "ppc64le"}


def parse_sif(head: bytes) -> SifHeader | None:
    """The head of a SIF file as a value; None if it is none.

    Args:
        head: the file's first `HEAD_BYTES`, or all of a smaller one.
    """
    if len(head) < _HEADER.size:
        return None
    fields = _HEADER.unpack_from(head)
    if fields[1] != _MAGIC:
        return None
    architecture, created = fields[3].rstrip(b"\0"), fields[5]
    total, offset = fields[8], fields[9]
    signers: list[str] = []
    signatures, end = 0, _HEADER.size
    for number in range(min(total, _MOST_DESCRIPTORS)):
        at = offset + number * _DESCRIPTOR.size
        if at < 0 or at + _DESCRIPTOR.size > len(head):
            break
        entry = _DESCRIPTOR.unpack_from(head, at)
        if not entry[1]:
            continue
        end = max(end, entry[5] + entry[6])
        if entry[0] == _SIGNATURE:
            signatures += 1
            fingerprint = entry[13][_FINGERPRINT]
            if any(fingerprint):
                signers.append(fingerprint.hex().upper())
    return SifHeader(
        _ARCHITECTURES.get(architecture, ""),
        float(created),
        tuple(dict.fromkeys(signers)),
        signatures,
        end,
    )
