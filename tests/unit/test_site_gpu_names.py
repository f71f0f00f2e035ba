"""What the names of GPUs and node features say."""

from __future__ import annotations

import pytest

from hpcvlm.site.gpu_names import feature_for, read_name, site_names


@pytest.mark.parametrize(
    ("text", "product", "memory", "hardware"),
    [
        ("A100", "A100", None, None),
        ("nvidia_a100_80gb_pcie", "A100", "80G", "NVIDIA A100 80GB PCIe"),
        ("nvidia_a100-sxm4-40gb", "A100", "40G", "NVIDIA A100-SXM4-40GB"),
        ("nvidia_h100_80gb_hbm3", "H100", "80G", "NVIDIA H100 80GB HBM3"),
        ("tesla_v100-sxm2-32gb", "V100", "32G", "Tesla V100-SXM2-32GB"),
        ("nvidia_geforce_rtx_2080_ti", None, None, "NVIDIA GeForce RTX 2080 Ti"),
        ("l40s", "L40S", None, None),
        ("A100fat", None, None, None),
        ("a100_1g.5gb", "A100", "5G", None),
        ("mi250x", "MI250X", None, None),
        ("V100-16GB", "V100", "16G", None),
        ("volta", None, None, None),
    ],
)
def test_what_a_name_says(
    text: str, product: str | None, memory: str | None, hardware: str | None
) -> None:
    name = read_name(text)
    assert (name.product, name.memory, name.hardware) == (product, memory, hardware)


def test_names_for_users_are_short_and_never_shared() -> None:
    assert site_names(["nvidia_a100_80gb_pcie", "h100"]) == {
        "nvidia_a100_80gb_pcie": "A100",
        "h100": "H100",
    }
    assert site_names(["nvidia_a100-sxm4-40gb", "nvidia_a100-sxm4-80gb", "t4"]) == {
        "nvidia_a100-sxm4-40gb": "A100-40",
        "nvidia_a100-sxm4-80gb": "A100-80",
        "t4": "T4",
    }
    assert site_names(["nvidia_h100_nvl", "nvidia_h100_pcie"]) == {
        "nvidia_h100_nvl": "h100_nvl",
        "nvidia_h100_pcie": "h100_pcie",
    }
    assert site_names(["a100", "A100"]) == {"a100": "a100-1", "A100": "A100-2"}
    assert site_names(["gpu:x", "gpu+x"]) == {"gpu:x": "gpu-x-1", "gpu+x": "gpu-x-2"}


def test_the_plainest_feature_is_taken() -> None:
    assert feature_for(("nvlink", "v100", "v100-32gb")) == "v100"
    assert feature_for(("intel", "skylake")) is None
