"""Remedies with numbers in them."""

from __future__ import annotations

import pytest

from hpcvlm.diagnosis.judge import diagnose
from hpcvlm.diagnosis.model import (
    Diagnosis,
    Evidence,
    Log,
    PlanFacts,
    Quota,
    Room,
    SlurmFacts,
)
from hpcvlm.diagnosis.remedies import duration_text, size_text
from hpcvlm.diagnosis.slurm_job import parse_limits, parse_sacct, sacct
from hpcvlm.ops.why import signatures

PLAN = PlanFacts(
    name="mine",
    job_id="42",
    model="qwen2.5-vl-7b",
    repo="Qwen/Qwen2.5-VL-7B-Instruct",
    gpus="A100:4",
    gpu_count=4,
    partition="gpu",
    time_limit_s=3600,
    start_timeout_s=1800,
)
GIB = 1024**3


def of(stderr: str = "", **more: object) -> Diagnosis:
    facts: dict[str, object] = {"plan": PLAN, "logs": (Log("engine.err", stderr),), **more}
    return diagnose(Evidence(**facts), signatures())  # type: ignore[arg-type]


def test_the_context_that_fits_is_the_engine_s_own() -> None:
    found = of(
        "ValueError: To serve at least one request with the model's max seq len (2048), (0.0 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (0.0 GiB). Based "
        "on the available memory, the estimated maximum model length is 896."
    )
    assert found.remedy.startswith(
        "max_model_len 896 fits: hpcvlm launch qwen2.5-vl-7b --gpus A100:4 --set max-model-len=896;"
    )
    assert found.remedy.endswith("more GPUs (--gpus A100:N)")


@pytest.mark.parametrize(
    ("needed", "free", "length"), [("24.00", "12.00", 65536), ("3.0", "1.0", 43680)]
)
def test_the_context_that_fits_is_computed_where_the_engine_does_not_say(
    needed: str, free: str, length: int
) -> None:
    found = of(
        f"ValueError: To serve at least one request with the models's max seq len (131072), "
        f"({needed} GiB KV cache is needed, which is larger than the available KV cache memory "
        f"({free} GiB)."
    )
    assert f"about {length} fits" in found.remedy
    assert f"--set max-model-len={length}" in found.remedy
    assert length % 16 == 0


def test_the_longest_context_of_the_model() -> None:
    found = of(
        "ValueError: User-specified max_model_len (100000) is greater than the derived "
        "max_model_len (max_position_embeddings=2048.0 or model_max_length=None in model's"
    )
    assert found.remedy == "hpcvlm launch qwen2.5-vl-7b --gpus A100:4 --set max-model-len=2048"


class TestTimeLimit:
    def test_the_partition_allows_more(self) -> None:
        found = of(reason="time-limit", partitions=(("gpu", 86400), ("short", 1800)))
        assert found.cause == "the job reached its time limit of 60m"
        assert found.remedy == (
            "partition gpu allows 24h: hpcvlm launch qwen2.5-vl-7b --gpus A100:4 --time 2h"
        )

    def test_the_partition_allows_no_more(self) -> None:
        slurm = SlurmFacts(state="TIMEOUT", time_limit_s=86400)
        limits = (("gpu", 86400), ("long", 7 * 86400), ("open", None), ("short", 1800))
        found = of(slurm=slurm, partitions=limits)
        assert found.id == "time-limit"
        assert found.cause == "the job reached its time limit of 24h"
        assert found.remedy.startswith(
            "partition gpu allows 24h at most, others more (long 7d, open any time: --partition); "
            "--keep 3d"
        )

    def test_nobody_knows_the_partition(self) -> None:
        assert of(reason="time-limit").remedy == "launch with a longer one: --time 4h"

    def test_a_limit_that_is_too_long_is_refused(self) -> None:
        words = "sbatch: error: Batch job submission failed: Requested time limit is invalid"
        found = of(refusal=words, partitions=(("gpu", 86400),))
        assert found.remedy == (
            "partition gpu allows 24h: hpcvlm launch qwen2.5-vl-7b --gpus A100:4 --time 24h"
        )
        assert of(pending="too long (PartitionTimeLimit)").id == "partition-time-limit"


class TestMainMemory:
    FULL = SlurmFacts(state="OUT_OF_MEMORY", max_rss=63 * GIB, requested_memory=64 * GIB)

    def test_what_it_held_and_was_given(self) -> None:
        found = of(slurm=self.FULL)
        assert "it was given 68.7 GB, and held 67.6 GB" in found.cause
        assert "memory_per_gpu: 24G" in found.remedy  # 64 GiB and half of it more, for 4 GPUs

    def test_without_accounts(self) -> None:
        found = of("slurmstepd: error: Detected 1 oom_kill event in StepId=1.batch.")
        assert found.cause.endswith("and was killed")
        assert "memory_per_gpu in the site's file" in found.remedy

    def test_a_kill_for_want_of_memory(self) -> None:
        slurm = SlurmFacts("FAILED", None, None, 63 * GIB, 64 * GIB, elapsed_s=600)
        assert "memory_per_gpu: 24G" in of(reason="engine-exited exit=137", slurm=slurm).remedy

    def test_a_peak_that_slurm_has_missed_is_not_told(self) -> None:
        slurm = SlurmFacts(state="OUT_OF_MEMORY", max_rss=GIB, requested_memory=64 * GIB)
        found = of(slurm=slurm)
        assert found.cause.endswith("(it was given 68.7 GB)")
        young = SlurmFacts("FAILED", None, None, GIB, 64 * GIB, elapsed_s=20)
        assert "if nobody did it" in of(reason="engine-exited exit=137", slurm=young).cause

    def test_a_kill_by_somebody(self) -> None:
        slurm = SlurmFacts("FAILED", None, None, GIB, 64 * GIB, elapsed_s=600, nodes="gpu07")
        found = of(reason="engine-exited exit=137", slurm=slurm)
        assert "hardly for want of main memory" in found.cause
        assert "gpu07" in found.remedy


class TestDisk:
    FULL = "OSError: [Errno 28] No space left on device"

    def test_the_folder_that_is_full_is_named(self) -> None:
        rooms = (
            Room("the job's folder", "/state/jobs/mine", 10**12),
            Room("the cache", "/home/me/cache", 400_000_000),
        )
        found = of(self.FULL, rooms=rooms)
        assert found.cause.endswith("(the cache /home/me/cache has 400.0 MB left)")

    def test_no_more_files(self) -> None:
        room = Room("the cache", "/scratch", 10**12, inodes=3)
        assert "room for 3 more files" in of(self.FULL, rooms=(room,)).cause

    def test_needed_and_left(self) -> None:
        found = of(
            "OSError: Not enough free disk space to download the file. The expected file size is: "
            "3100.00 MB. The target location /home/me only has 400.00 MB free disk space."
        )
        assert found.cause.endswith("(needs 3.1 GB, 400.0 MB are left)")

    def test_a_quota(self) -> None:
        quota = Quota("/home", 49_600_000_000, 50_000_000_000)
        found = of("OSError: [Errno 122] Disk quota exceeded", quotas=(quota,))
        assert found.id == "quota-exceeded"
        assert "49.6 GB of a quota of 50.0 GB are used, it leaves 400.0 MB" in found.cause

    def test_over_a_quota(self) -> None:
        quota = Quota("/home", 51_000_000_000, 50_000_000_000)
        assert "leaves 0 B" in of("OSError: [Errno 122] Disk quota exceeded", quotas=(quota,)).cause


class TestGpu:
    FULL = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB."

    def test_what_fits_by_arithmetic(self) -> None:
        fits = ("hpcvlm launch m --gpus A100:2", "hpcvlm launch m:awq --gpus A100:1", "c")
        plan = PlanFacts(model="m", gpus="A100:1", fits=fits)
        assert of(self.FULL, plan=plan).remedy == (
            "by arithmetic this fits: hpcvlm launch m --gpus A100:2; or "
            "hpcvlm launch m:awq --gpus A100:1"
        )

    def test_without_arithmetic(self) -> None:
        assert of(self.FULL).remedy.startswith("more GPUs (--gpus A100:N), or less to hold")

    def test_the_share_that_is_free(self) -> None:
        found = of(
            "ValueError: Free memory on device (59.32/79.15 GiB) on startup is less than desired "
            "GPU memory utilization (0.9, 71.24 GiB)."
        )
        assert "a share of 0.72 is free" in found.remedy
        assert "--set gpu-memory-utilization=0.72" in found.remedy

    def test_no_share_is_free(self) -> None:
        found = of(
            "ValueError: Free memory on device (0.32/79.15 GiB) on startup is less than desired "
            "GPU memory utilization (0.9, 71.24 GiB)."
        )
        assert "a node with a free GPU" in found.remedy

    def test_numbers_of_gpus_that_divide_the_heads(self) -> None:
        found = of(
            "ValueError: Total number of attention heads (28) must be divisible by tensor parallel "
            "size (8)."
        )
        assert found.remedy == "a number of GPUs that divides 28: --gpus A100:1 or A100:2 or A100:4"

    def test_heads_that_only_the_config_knows(self) -> None:
        plan = PlanFacts(model="m", gpus="H100:8", gpu_count=8, heads=12)
        found = of("AssertionError: 3420 is not divisible by 8", plan=plan)
        assert found.remedy.endswith("divides 12: --gpus H100:4 or H100:6 or H100:12")

    def test_a_main_memory_cache_that_fits(self) -> None:
        found = of(
            "ValueError: Available memory on node 0 (21.05/22.71 GiB) on kv cache allocation is "
            "less than requested memory for kv (100.0 GiB)."
        )
        assert found.remedy.startswith("16 GiB fit: hpcvlm launch")
        assert "--set kv-cache-memory-bytes=16G" in found.remedy


def test_twice_the_start_time() -> None:
    found = of(reason="start-timeout")
    assert found.cause == "the engine was not ready within its start time of 30m"
    assert "--set start_timeout=60m" in found.remedy


def test_names_of_this_job_stand_in_the_remedy() -> None:
    assert of(pending="(JobHeldUser)").remedy == "scontrol release 42"
    assert "hpcvlm logs mine" in of(reason="engine-hung").remedy
    missing = of("OSError: Can't load processor for '/hub/x'.")
    assert "snapshots pull Qwen/Qwen2.5-VL-7B-Instruct" in missing.remedy
    any_type = PlanFacts(gpus="2")
    assert "(--gpus N)" in of("torch.OutOfMemoryError: CUDA out of memory", plan=any_type).remedy
    assert (
        "(--gpus TYPE:N)"
        in diagnose(Evidence(logs=(Log("e", "CUDA out of memory"),)), signatures()).remedy
    )


def test_who_cancelled_it() -> None:
    root = of(slurm=SlurmFacts(state="CANCELLED by 0"))
    assert root.cause.endswith("by root, an administrator or Slurm itself")
    assert of(slurm=SlurmFacts(state="CANCELLED by 1017")).cause.endswith("by user id 1017")
    assert of(slurm=SlurmFacts(state="CANCELLED")).cause == "the job was cancelled"


def test_texts_of_durations_and_sizes() -> None:
    assert [duration_text(s) for s in (59, 90, 1800, 3600, 7200, 86400, 3 * 86400, 90000)] == [
        "1m", "2m", "30m", "60m", "2h", "24h", "3d", "25h",
    ]  # fmt: skip
    assert [size_text(n) for n in (0, 999, 1500, 3.1e9, 2e12)] == [
        "0 B", "999 B", "1.5 kB", "3.1 GB", "2.0 TB",
    ]  # fmt: skip


class TestAccounts:
    def test_the_largest_step_counts(self) -> None:
        facts = parse_sacct(
            0,
            "7|OUT_OF_MEMORY|0:125||16000M|00:10:00|01:00:00|gpu01|4|1\n"
            "7.batch|OUT_OF_MEMORY|0:125|15987K||00:10:00||gpu01|4|1\n"
            "7.0|COMPLETED|0:0|1.5G||00:10:00||gpu01|4|1\n",
        )
        assert facts.max_rss == int(1.5 * GIB)
        assert facts.requested_memory == 16000 * 1024**2
        assert (facts.exit_code, facts.signal) == (0, 125)
        assert (facts.elapsed_s, facts.time_limit_s) == (600, 3600)
        assert facts.line.startswith("JobID=7 State=OUT_OF_MEMORY ExitCode=0:125 MaxRSS=1572864K")

    @pytest.mark.parametrize(
        ("memory", "cpus", "nodes", "expected"),
        [
            ("4000Mc", 8, 1, 32000 * 1024**2),
            ("16Gn", 8, 2, 16 * GIB),
            ("32G", 8, 2, 16 * GIB),
            ("16?", 1, 1, None),
            ("0", 1, 1, None),
            ("", 1, 1, None),
        ],
    )
    def test_memory_of_every_version(
        self, memory: str, cpus: int, nodes: int, expected: int | None
    ) -> None:
        line = f"7|FAILED|1:0||{memory}|00:00:01|UNLIMITED|n|{cpus}|{nodes}\n"
        facts = parse_sacct(0, line)
        assert facts.requested_memory == expected
        assert facts.time_limit_s is None

    @pytest.mark.parametrize("stdout", ["", "not|enough\n", "sacct: error\n"])
    def test_no_accounts(self, stdout: str) -> None:
        assert parse_sacct(0, stdout) == SlurmFacts()
        assert parse_sacct(1, "7|FAILED|1:0|||||||\n") == SlurmFacts()

    def test_the_question(self) -> None:
        assert sacct("7")[-1] == "--jobs=7"

    def test_limits_of_partitions(self) -> None:
        text = "gpu|1-00:00:00\nopen|infinite\ngpu|1-00:00:00\nodd\nshort|30:00\n"
        assert parse_limits(0, text) == (("gpu", 86400), ("open", None), ("short", 1800))
        assert parse_limits(1, text) == ()
