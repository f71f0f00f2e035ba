"""GPU types: memory as the engine sees it, compute capability, and what sites call them."""

from __future__ import annotations

from typing import Literal, NamedTuple

Basis = Literal["driver", "nvidia-smi", "maker"]

SHARE: dict[Basis, float] = {"driver": 1.0, "nvidia-smi": 0.99, "maker": 0.98}
"""What an engine sees of each figure.

The CUDA driver keeps about 1 % of what nvidia-smi calls total: 40.0 and 39.5 GiB on an A100,
45.0 and 44.5 on an L40S. Of a maker's figure, where nothing else is known, 2 % are taken off.
"""


class Row(NamedTuple):
    """One type.

    Attributes:
        name: what hpcvlm calls it; the part before the first dash is its family.
        gib: memory by `basis`: ``driver`` is the total in the words of PyTorch, vLLM or
            deviceQuery, ``nvidia-smi`` its memory.total, ``maker`` the data sheet.
        capability: CUDA compute capability, major and minor; None for AMD.
        aliases: further names, in small letters and digits alone.
        source: where the figure stands.
    """

    name: str
    gib: float
    basis: Basis
    capability: tuple[int, int] | None
    aliases: tuple[str, ...]
    source: str


_MODAL = "https://thundergolfer.com/blog/nvidia-gpu-memory-capacity"
_LUMI = "https://docs.lumi-supercomputer.eu"
_MI300X = "https://gpu.blog/gpus/instinct-mi300x-mi300x"
_MI300A = "https://www.jaredwatkins.com/research/ai-accelerators/amd-instinct/mi300-series/"
_MIG_H100 = "https://jbarrow.ai/field_notes/nvidia-mig/"
_MIG_GUIDE = "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html"

ROWS: tuple[Row, ...] = (
    Row(
        "A100-40",
        39.49,
        "driver",
        (8, 0),
        ("a100sxm440gb", "a100pcie40gb", "a10040gb", "a100sxm4", "gpua100"),
        "https://upb-pc2.atlassian.net/wiki/spaces/PC2DOK/pages/1900609/",
    ),
    Row(
        "A100-64",
        64.0,
        "maker",
        (8, 0),
        ("a100sxm64gb", "a10064gb", "a100custom"),
        "https://leonardo-supercomputer.cineca.eu/hpc-system",
    ),
    Row(
        "A100-80",
        79.15,
        "driver",
        (8, 0),
        ("a100sxm480gb", "a100pcie80gb", "a10080gb", "a100sxm80gb", "a100fat", "a80080gb", "a800"),
        "https://github.com/vllm-project/vllm/issues/4408",
    ),
    Row(
        "H100-80",
        79.11,
        "driver",
        (9, 0),
        ("h10080gb", "h10080gbhbm3", "h100pcie", "h100sxm5", "h100sxm", "h100hbm3", "h800"),
        "https://github.com/vllm-project/vllm/issues/27508",
    ),
    Row(
        "H100-94",
        94.0,
        "maker",
        (9, 0),
        ("h10094gb", "h100nvl", "h100nvl94gb", "h100sxm594gb"),
        "https://grokipedia.com/page/210100120",
    ),
    Row(
        "H200",
        140.40,
        "nvidia-smi",
        (9, 0),
        ("h200sxm", "h200141gb", "h200nvl", "h200hbm3e"),
        _MODAL,
    ),
    Row(
        "B200",
        178.35,
        "driver",
        (10, 0),
        ("b200180gb", "hgxb200"),
        "https://github.com/pytorch/ao/pull/4002",
    ),
    Row("L4", 22.49, "nvidia-smi", (8, 9), ("l424gb",), _MODAL),
    Row(
        "L40",
        44.40,
        "driver",
        (8, 9),
        ("l4048gb",),
        "https://github.com/QwenLM/Qwen3-VL/issues/2097",
    ),
    Row(
        "L40S",
        44.42,
        "driver",
        (8, 9),
        ("l40s48gb",),
        "https://github.com/stepfun-ai/Step-Video-T2V/issues/8",
    ),
    Row("A10", 22.49, "nvidia-smi", (8, 6), ("a10g", "a1024gb"), _MODAL),
    Row(
        "A30",
        23.53,
        "driver",
        (8, 0),
        ("a3024gb",),
        "https://github.com/google/RB-Modulation/issues/5",
    ),
    # The data sheet's 48 GB less 1/16 for error correction, as is seen of the L40's and L40S's 48.
    Row("A40", 45.0, "maker", (8, 6), ("a4048gb",), "https://www.elprocus.com/nvidia-a40-gpu"),
    Row(
        "RTX-A6000",
        48.0,
        "maker",
        (8, 6),
        ("a6000", "rtxa6000", "a600048gb", "quadrortxa6000"),
        "https://sysrqmts.com/es/gpus/compare/nvidia-rtx-a6000-vs-nvidia-tesla-p40",
    ),
    Row(
        "RTX-6000-Ada",
        44.43,
        "driver",
        (8, 9),
        ("rtx6000ada", "rtx6000adageneration", "6000ada", "rtx6000"),
        "https://github.com/DINGYANB/MTVCrafter/issues/21",
    ),
    Row(
        "Quadro-RTX-6000",
        24.0,
        "maker",
        (7, 5),
        ("quadrortx6000", "rtx6000", "quadro6000"),
        "https://sysrqmts.com/fr/gpus/compare/nvidia-a40-pcie-vs-nvidia-quadro-rtx-6000",
    ),
    Row(
        "RTX-PRO-6000",
        96.0,
        "maker",
        (12, 0),
        (
            "rtxpro6000",
            "rtxpro6000blackwell",
            "rtxpro6000blackwellserveredition",
            "rtxpro6000blackwellworkstationedition",
            "pro6000",
            "rtx6000pro",
        ),
        "https://github.com/vllm-project/vllm/issues/24383",
    ),
    Row(
        "RTX-3090",
        23.58,
        "driver",
        (8, 6),
        ("rtx3090", "geforcertx3090", "3090"),
        "https://github.com/tatsu-lab/stanford_alpaca/issues/76",
    ),
    Row(
        "RTX-4090",
        23.52,
        "driver",
        (8, 9),
        ("rtx4090", "geforcertx4090", "4090"),
        "https://github.com/Soul-AILab/SoulX-FlashTalk/issues/5",
    ),
    Row(
        "RTX-5090",
        31.37,
        "driver",
        (12, 0),
        ("rtx5090", "geforcertx5090", "5090"),
        "https://github.com/Wan-Video/Wan2.1/issues/465",
    ),
    Row(
        "V100-16",
        16.0,
        "nvidia-smi",
        (7, 0),
        ("v10016gb", "v100sxm216gb", "v100pcie16gb", "teslav100"),
        "https://github.com/1CatAI/1Cat-vLLM/issues/85",
    ),
    Row(
        "V100-32",
        31.74,
        "driver",
        (7, 0),
        ("v10032gb", "v100sxm232gb", "v100pcie32gb", "v100s", "teslav100"),
        "https://github.com/liucongg/ChatGLM-Finetuning/issues/73",
    ),
    Row(
        "T4",
        14.75,
        "driver",
        (7, 5),
        ("t416gb", "teslat4"),
        "https://github.com/hpcaitech/Open-Sora/issues/697",
    ),
    # One MI250X is two GPUs to Slurm and ROCm, with half of its 128 GB each.
    Row("MI250X", 64.0, "maker", None, ("mi250", "mi250xgcd", "amdinstinctmi250x"), _LUMI),
    Row("MI300X", 192.0, "maker", None, ("mi300", "amdinstinctmi300x"), _MI300X),
    Row("MI300A", 128.0, "maker", None, ("mi300", "amdinstinctmi300a"), _MI300A),
    Row("A100-1g.5gb", 4.75, "nvidia-smi", (8, 0), ("1g5gb", "a1001g5gb"), _MIG_GUIDE),
    Row("A100-2g.10gb", 9.75, "nvidia-smi", (8, 0), ("2g10gb", "a1002g10gb"), _MIG_GUIDE),
    Row("A100-3g.20gb", 19.62, "nvidia-smi", (8, 0), ("3g20gb", "a1003g20gb"), _MIG_GUIDE),
    Row("A100-4g.20gb", 19.62, "nvidia-smi", (8, 0), ("4g20gb", "a1004g20gb"), _MIG_GUIDE),
    Row("A100-1g.10gb", 9.75, "nvidia-smi", (8, 0), ("1g10gb", "a1001g10gb"), _MIG_GUIDE),
    Row("A100-1g.20gb", 19.62, "nvidia-smi", (8, 0), ("1g20gb", "a1001g20gb"), _MIG_GUIDE),
    Row("A100-2g.20gb", 19.62, "nvidia-smi", (8, 0), ("2g20gb", "a1002g20gb"), _MIG_GUIDE),
    Row("A100-3g.40gb", 39.50, "nvidia-smi", (8, 0), ("3g40gb", "a1003g40gb"), _MIG_GUIDE),
    Row("A100-4g.40gb", 39.50, "nvidia-smi", (8, 0), ("4g40gb", "a1004g40gb"), _MIG_GUIDE),
    Row("H100-1g.10gb", 9.75, "nvidia-smi", (9, 0), ("1g10gb", "h1001g10gb"), _MIG_H100),
    Row("H100-1g.20gb", 19.62, "nvidia-smi", (9, 0), ("1g20gb", "h1001g20gb"), _MIG_H100),
    Row("H100-2g.20gb", 19.62, "nvidia-smi", (9, 0), ("2g20gb", "h1002g20gb"), _MIG_H100),
    Row("H100-3g.40gb", 39.50, "nvidia-smi", (9, 0), ("3g40gb", "h1003g40gb"), _MIG_H100),
    Row("H100-4g.40gb", 39.50, "nvidia-smi", (9, 0), ("4g40gb", "h1004g40gb"), _MIG_H100),
    # Of these the guide gives the profiles alone; their sizes are the names', less the 5 % that
    # those above have less than theirs.
    Row("H200-1g.18gb", 17.0, "maker", (9, 0), ("1g18gb", "h2001g18gb"), _MIG_GUIDE),
    Row("H200-2g.35gb", 34.0, "maker", (9, 0), ("2g35gb", "h2002g35gb"), _MIG_GUIDE),
    Row("H200-3g.71gb", 70.0, "maker", (9, 0), ("3g71gb", "h2003g71gb"), _MIG_GUIDE),
    Row("A30-1g.6gb", 5.75, "maker", (8, 0), ("1g6gb", "a301g6gb"), _MIG_GUIDE),
    Row("A30-2g.12gb", 11.75, "maker", (8, 0), ("2g12gb", "a302g12gb"), _MIG_GUIDE),
)
