"""What sbatch's words say of whether there is a job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcvlm.errors import HpcvlmError
from hpcvlm.slurm.parse import Outcome, parse_folders, sbatch_outcome

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "outcome"),
    [
        (1, "", f"{FAILED}Invalid account or account/partition combination specified", "REFUSED"),
        (1, "", "sbatch: error: invalid partition specified: nope\n" + FAILED + "…", "REFUSED"),
        (1, "", "sbatch: unrecognized option '--nope'\nTry \"sbatch --help\"", "REFUSED"),
        (127, "", "sbatch: No such file or directory", "REFUSED"),
        (1, "", f"{FAILED}Unable to contact slurm controller (connect failure)", "LATER"),
        (1, "", "sbatch: error: Slurm temporarily unable to accept job, sleeping", "LATER"),
        (1, "", f"{FAILED}Slurm is currently in a maintenance", "LATER"),
        (124, "", "sbatch: no answer within 120 s", "IN_DOUBT"),
        (-9, "", "", "IN_DOUBT"),
        (1, "", f"{FAILED}Socket timed out on send/recv operation", "IN_DOUBT"),
        (1, "", f"{FAILED}Unable to contact slurm controller (receive failure)", "IN_DOUBT"),
        (1, "", f"{FAILED}Zero Bytes were transmitted or received", "IN_DOUBT"),
        (1, "", f"{FAILED}Unable to contact slurm controller", "IN_DOUBT"),
        (0, "Submitted batch job", "", "IN_DOUBT"),
        (1, "4711\n", "sbatch: error: the plug-in fell over", "IN_DOUBT"),
        (1, "4711;north\n", "", "IN_DOUBT"),
        (1, "", "a site's own wrapper said something", "IN_DOUBT"),
    ],
)
def test_what_is_known_after_an_answer(code: int, stdout: str, stderr: str, outcome: str) -> None:
    assert sbatch_outcome(code, stdout, stderr) is Outcome[outcome]


@given(st.integers(-64, 255), st.text(max_size=30), st.text(max_size=80))
def test_nothing_is_called_certain_without_words_of_sbatch(
    code: int, stdout: str, stderr: str
) -> None:
    outcome = sbatch_outcome(code, stdout, stderr)
    if code != 127 and "sbatch: " not in stderr.lower():
        assert outcome is not Outcome.REFUSED


def test_folders_by_number() -> None:
    text = "CLUSTER: north\n7|/home/ada/jobs/a\n12_4|/home/a|b\n"
    assert parse_folders("squeue", 0, text, "") == {"7": "/home/ada/jobs/a", "12_4": "/home/a|b"}
    with pytest.raises(HpcvlmError) as caught:
        parse_folders("squeue", 1, "", "slurm_load_jobs error: Unable to contact slurm controller")
    assert caught.value.code == "slurm-unavailable"
