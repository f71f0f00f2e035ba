"""GPU types by name: how much memory an engine has on one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcvlm.memory.gpu_table import ROWS, SHARE, Row
from hpcvlm.memory.shapes import GIB

_MAKERS = ("nvidia", "amd", "instinct", "geforce", "tesla")
_SLICE = re.compile(r"\d+g\.?\d+gb", re.IGNORECASE)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GpuSpec:
    """One GPU as an engine sees it.

    Attributes:
        total_bytes: what the CUDA driver reports as total, or is expected to.
        capability: CUDA compute capability; None where it is unknown or the GPU is AMD's.
        source: where the memory figure stands.
    """

    name: str
    total_bytes: int
    capability: tuple[int, int] | None = None
    source: str = ""

    @property
    def total_gib(self) -> float:
        """Total memory in GiB."""
        return self.total_bytes / GIB

    @property
    def bfloat16(self) -> bool:
        """Whether it computes in bfloat16: from Ampere on, and AMD's."""
        return self.capability is None or self.capability >= (8, 0)


def find_gpu(text: str) -> tuple[GpuSpec, ...]:
    """The GPU types that a name can mean.

    Args:
        text: a name as Slurm, nvidia-smi or a person writes it: ``A100``, ``a100_80gb``,
            ``NVIDIA A100-SXM4-80GB``, ``nvidia_a100_1g.10gb``, ``gpu:h100``; capitals, blanks,
            dashes and underscores do not matter.

    Returns:
        One where the name says which, several where it does not (``A100`` has 40 or 80 GB),
        smallest first; none for an unknown name.
    """
    name = _plain(text)
    if not name:
        return ()
    exact = [row for row in ROWS if name in {_plain(row.name), *row.aliases}]
    if not exact:
        slice_name = _SLICE.search(text)
        exact = _family(name) if slice_name is None else _slices(name, _plain(slice_name[0]))
    return tuple(sorted(map(_spec, exact), key=lambda spec: spec.total_bytes))


def gpu_of_bytes(name: str, total_bytes: int) -> GpuSpec:
    """A GPU whose memory is known, such as from a site's file or nvidia-smi.

    The compute capability is taken from the name where all types of that name share it.
    """
    capabilities = {spec.capability for spec in find_gpu(name)}
    capability = capabilities.pop() if len(capabilities) == 1 else None
    return GpuSpec(name, total_bytes, capability, "given")


def _spec(row: Row) -> GpuSpec:
    total = int(row.gib * SHARE[row.basis] * GIB)
    return GpuSpec(row.name, total, row.capability, row.source)


def _plain(text: str) -> str:
    """Small letters and digits; without Slurm's ``gpu:`` and the maker's name."""
    name = re.sub(r"[^a-z0-9]", "", text.lower().removeprefix("gpu:"))
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    return name


def _family(name: str) -> list[Row]:
    """Whole GPUs whose family is the name's: ``a100`` for 40, 64 and 80 GB.

    The sizes that few machines have are named in full: plain A100 and H100 leave 64 GB out.
    """
    rows = [
        row
        for row in ROWS
        if _plain(row.name.partition("-")[0]) == name and not _SLICE.search(row.name)
    ]
    common = [row for row in rows if not row.name.endswith("-64")]
    return common or rows


def _slices(name: str, slice_name: str) -> list[Row]:
    """A slice of a GPU that is named, too: ``a100_3g.40gb``."""
    rows = [row for row in ROWS if _plain(row.name).endswith(slice_name)]
    named = [row for row in rows if _plain(row.name.partition("-")[0]) in name]
    return named or rows
