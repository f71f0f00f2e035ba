"""What is known of a container image, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class FileKey(NamedTuple):
    """What tells one state of a file from another without reading it.

    Attributes:
        size: bytes.
        mtime_ns: last write, nanoseconds since the epoch.
    """

    path: str
    inode: int
    size: int
    mtime_ns: int


class ImageFacts(NamedTuple):
    """What the software in an image says of itself; empty where it says nothing.

    Attributes:
        engine: version of the engine, such as ``0.10.2+cu128``.
        torch: version of PyTorch.
        transformers: version of transformers.
        python: version of Python.
        cuda: the CUDA toolkit that PyTorch was built with, ``12.8``.
        hip: the ROCm that PyTorch was built with.
        architecture: as ``uname -m`` says it: ``x86_64``, ``aarch64``.
    """

    engine: str = ""
    torch: str = ""
    transformers: str = ""
    python: str = ""
    cuda: str = ""
    hip: str = ""
    architecture: str = ""


class SifHeader(NamedTuple):
    """What the first blocks of a SIF file say.

    Attributes:
        architecture: as ``uname -m`` says it; empty where the file does not.
        created: seconds since the epoch.
        signers: fingerprints of the keys of its signatures, capitals, as the file claims them;
            only `RUNTIME verify` can say whether they hold. Empty for signatures of X.509 keys.
        signatures: how many signatures it carries.
        end: bytes that the file must at least have.
    """

    architecture: str
    created: float
    signers: tuple[str, ...]
    signatures: int
    end: int


class Signature(NamedTuple):
    """One signature of one object of an image.

    Attributes:
        fingerprint: of the key, capitals.
        name: whose key it is.
        part: the object that is signed, such as ``FS``.
        intact: whether the object is what was signed.
    """

    fingerprint: str
    name: str
    part: str
    intact: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """What a runtime's verify command said.

    Attributes:
        ok: whether it accepted the image.
        signatures: how many the image carries.
        seen: the signatures whose keys are in the keyring.
        said: its last words, where it did not accept the image.
    """

    ok: bool
    signatures: int
    seen: tuple[Signature, ...]
    said: str = ""

    @property
    def altered(self) -> bool:
        """Whether something is no longer what was signed."""
        return any(not one.intact for one in self.seen)

    @property
    def signers(self) -> tuple[str, ...]:
        """Fingerprints of the keys that every signed object holds to; none if not accepted."""
        if not self.ok or self.altered:
            return ()
        return tuple(dict.fromkeys(one.fingerprint for one in self.seen))


class Remembered(NamedTuple):
    """What was once read of an image, and must not be read again while the file is the same.

    Attributes:
        key: the file as it was.
        digest: SHA-256 of its content, 64 hexadecimal digits.
        recorded: when, seconds since the epoch.
        source: where it came from, such as ``docker://vllm/vllm-openai:v0.10.2``; empty if unknown.
        signers: fingerprints of the keys that a verification found good.
    """

    key: FileKey
    digest: str
    recorded: float
    source: str = ""
    signers: tuple[str, ...] = ()


class Finding(NamedTuple):
    """One thing that is wrong with an image.

    Attributes:
        code: stable identifier.
        sentence: what is wrong.
        remedy: what to type or change.
    """

    code: str
    sentence: str
    remedy: str = ""
