"""The node's memory for the job is used up, and the kernel kills."""

from __future__ import annotations

import pytest

from tests.faults.place import Place, until

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.usefixtures("cgroups")]

GREEDY = """
import threading, time

def grow():
    time.sleep({delay_s})
    held = []
    while True:
        held.append(bytearray(16 << 20))
        time.sleep(0.02)

threading.Thread(target=grow, daemon=True).start()
"""


def test_memory_of_the_node_used_up_before_it_is_ready(place: Place) -> None:
    engine = place.engine_program("greedy", GREEDY.format(delay_s=0))
    place.site(engine, memory_per_gpu="250M")
    done = place.hpcvlm(*place.arguments("greedy", mode="slow"))
    assert done.code == 5, done.stderr
    assert "used more main memory than it was given" in done.stderr
    assert "try:" in done.stderr


def test_memory_of_the_node_used_up_while_it_serves(place: Place) -> None:
    engine = place.engine_program("greedy", GREEDY.format(delay_s=15))
    place.site(engine, memory_per_gpu="250M")
    place.launch("greedy")
    row = place.becomes("greedy", "failed")
    assert row["verdict"]["evidence"]
    said = place.said("greedy")
    assert "used more main memory than it was given" in said
    assert "try:" in said
    until(lambda: not place.processes(), lambda: f"{place.command_lines()} still run")
