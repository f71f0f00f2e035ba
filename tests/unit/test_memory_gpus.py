"""GPU types by the names that sites, drivers and people give them."""

from __future__ import annotations

import pytest

from hpcvlm.memory.gpu_table import ROWS
from hpcvlm.memory.gpus import find_gpu, gpu_of_bytes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("A100", ["A100-40", "A100-80"]),
        ("a100_80gb", ["A100-80"]),
        ("NVIDIA A100-SXM4-80GB", ["A100-80"]),
        ("nvidia_a100-sxm4-40gb", ["A100-40"]),
        ("A100fat", ["A100-80"]),
        ("gpu:h100", ["H100-80", "H100-94"]),
        ("NVIDIA H100 80GB HBM3", ["H100-80"]),
        ("h100-nvl", ["H100-94"]),
        ("H200", ["H200"]),
        ("L40S", ["L40S"]),
        ("l40", ["L40"]),
        ("V100", ["V100-16", "V100-32"]),
        ("Tesla V100-SXM2-32GB", ["V100-32"]),
        ("tesla_t4", ["T4"]),
        ("rtx_6000", ["Quadro-RTX-6000", "RTX-6000-Ada"]),
        ("NVIDIA RTX 6000 Ada Generation", ["RTX-6000-Ada"]),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", ["RTX-PRO-6000"]),
        ("GH200", []),
        ("NVIDIA GH200 480GB", []),
        ("mi250x", ["MI250X"]),
        ("1g.10gb", ["A100-1g.10gb", "H100-1g.10gb"]),
        ("nvidia_a100_3g.40gb", ["A100-3g.40gb"]),
        ("nvidia_h100_80gb_hbm3_3g.40gb", ["H100-3g.40gb"]),
        ("A100-40", ["A100-40"]),
        ("abacus", []),
        ("", []),
    ],
)
def test_names(text: str, names: list[str]) -> None:
    assert [gpu.name for gpu in find_gpu(text)] == names


def test_every_type_is_found_by_its_own_name_and_has_a_source() -> None:
    for row in ROWS:
        assert row.name in {gpu.name for gpu in find_gpu(row.name)}
        assert row.source.startswith("https://")
        assert row.gib > 4


def test_memory_is_what_an_engine_sees() -> None:
    """Published logs: 79.18 and 79.19 GiB on an H100, 39.38 and 39.50 on an A100."""
    (hopper,) = find_gpu("H100-80")
    assert 79.0 < hopper.total_gib < 79.2
    (ampere,) = find_gpu("A100-40")
    assert 39.3 < ampere.total_gib < 39.6
    assert ampere.bfloat16
    assert not find_gpu("T4")[0].bfloat16


def test_memory_that_is_known_comes_before_the_table() -> None:
    gpu = gpu_of_bytes("A100", 40 * 10**9)
    assert (gpu.total_bytes, gpu.capability) == (40 * 10**9, (8, 0))
    assert gpu_of_bytes("new", 10**9).capability is None
