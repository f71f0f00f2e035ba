"""Clocks jump, and the node's clock is not the login node's."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.faults.place import FaultCluster, Place

pytestmark = [pytest.mark.slow]
DAY = 86400

# What asks for the time gets that of the file's number of seconds later.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void) {
    const char *path = getenv("FAULT_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, now);
    if (code == 0 && id == CLOCK_REALTIME) now->tv_sec += offset();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *kept) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (kept) *kept = exact.tv_sec;
    return exact.tv_sec;
}
"""


def make_clock(place: Place) -> dict[str, str]:
    """The variables that give whoever has them a clock that the file named in them sets."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to make a clock that can be set")
    source, library = place.folder / "clock.c", place.folder / "clock.so"
    source.write_text(SHIM, encoding="utf-8")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True
    )
    ahead = place.folder / "ahead"
    ahead.write_text("0", encoding="utf-8")
    return {"LD_PRELOAD": str(library), "FAULT_CLOCK": str(ahead)}


def set_clock(place: Place, seconds: int) -> None:
    """Let that clock be so far ahead of the right time."""
    (place.folder / "ahead").write_text(str(seconds), encoding="utf-8")


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_clock_jumps_while_it_starts_and_serves(here: Place, seconds: int) -> None:
    here.hpcvlm.environment |= make_clock(here)
    process = here.hpcvlm.start(*here.arguments("jumps", "--executor", "local", mode="slow"))
    here.reaches("jumps", "engine")
    set_clock(here, seconds)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert here.status("jumps")["state"] == "ready"
    set_clock(here, 0)
    assert here.status("jumps")["state"] == "ready"
    here.answers("jumps")
    assert here.hpcvlm("stop", "jumps").stdout == "jumps: stopped\n"
    assert here.status("jumps")["description"] == "ended (stopped)"


@pytest.mark.slurm
@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_node_s_clock_is_wrong(place: Place, cluster: FaultCluster, seconds: int) -> None:
    """That of the job alone: sbatch hands it to it, and runs by the right one itself."""
    given = " ".join(f"{name}={value}" for name, value in make_clock(place).items())
    place.program("sbatch", f'export {given}; exec "$REAL" "$@"')
    set_clock(place, seconds)
    place.launch("wrong")
    row = place.status("wrong")
    assert row["state"] == "ready", row
    assert "the node's clock is" in place.said("wrong")
    place.answers("wrong")
    cluster.do("stop", "slurmctld")
    assert place.status("wrong")["state"] == "unknown"
    cluster.do("start", "slurmctld")
    assert place.hpcvlm("stop", "wrong").stdout == "wrong: stopped\n"
    assert place.status("wrong")["description"] == "ended (stopped)"


@pytest.mark.parametrize("seconds", [DAY, -DAY])
def test_login_node_s_clock_is_wrong(here: Place, seconds: int) -> None:
    """Files get their times from the file server, as here from the kernel, which is right."""
    here.hpcvlm.environment |= make_clock(here)
    set_clock(here, seconds)
    done = here.hpcvlm(*here.arguments("off", "--executor", "local"), timeout_s=60)
    assert done.code == 0, done.stderr
    assert here.status("off")["state"] == "ready"
    assert "this machine's clock is" in here.said("off")
    assert here.hpcvlm("stop", "off").stdout == "off: stopped\n"
    assert here.status("off")["description"] == "ended (stopped)"
