"""The engine fails in every way that a process can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.faults.place import Place, until

pytestmark = [pytest.mark.slow]


def test_killed_before_it_is_ready(here: Place) -> None:
    process = here.hpcvlm.start(*here.arguments("early", "--executor", "local", mode="slow"))
    here.reaches("early", "engine")
    os.kill(here.engine("early"), signal.SIGKILL)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 5, stderr
    assert "early failed (the engine ended)" in stderr
    assert "try:" in stderr
    assert here.state("early")["engine_exit"] == 137


def test_killed_while_it_serves(here: Place) -> None:
    here.launch("serves", "--executor", "local")
    os.kill(here.engine("serves"), signal.SIGKILL)
    row = here.becomes("serves", "failed")
    assert row["description"] == "failed (the engine ended)"
    assert row["verdict"]["engine_exit"] == 137
    assert "try:" in here.said("serves")


def test_hung_before_it_is_ready(here: Place) -> None:
    limit = ("--set", "start_timeout=4s")
    done = here.hpcvlm(*here.arguments("mute", "--executor", "local", *limit, mode="hang"))
    assert done.code == 5
    assert "not ready within its start time" in done.stderr
    assert "try:" in done.stderr


# Five minutes are right for a user, and too long for a test.
HURRY = """
for line in look_every=1 look_timeout=1 hang_timeout=6 stop_timeout=2; do
    sed -i "s/^${line%=*}=[0-9]*/$line/" "${@: -1}"
done
exec "$REAL" "$@"
"""


@pytest.mark.slurm
def test_hung_while_it_serves(place: Place) -> None:
    place.program("sbatch", HURRY)
    place.launch("stuck")
    os.kill(place.engine("stuck"), signal.SIGSTOP)
    row = place.becomes("stuck", "failed")
    assert row["verdict"]["reason"] == "engine-hung"
    assert "try:" in place.said("stuck")
    until(lambda: not place.processes(), lambda: f"{place.command_lines()} still run")


def test_worker_killed(here: Place) -> None:
    """As vLLM's own watchdog does it: the engine core dies, and the server ends with an error."""
    here.launch("worker", "--executor", "local", mode="die-after-ready")
    row = here.becomes("worker", "failed")
    assert row["verdict"]["engine_exit"] == 3
    assert "illegal memory access" in here.said("worker")


def test_port_taken_between_choice_and_bind(here: Place) -> None:
    here.launch("second-try", "--executor", "local", mode="port-taken-once")
    assert here.status("second-try")["state"] == "ready"


SECOND_SERVER = """
import socket, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Other(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b'{"object":"list","data":[{"id":"somebody-else"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET

class Shared(HTTPServer):
    allow_reuse_port = True

Shared(("127.0.0.1", int(sys.argv[1])), Other).serve_forever()
"""


def test_second_server_on_the_same_port(here: Place) -> None:
    """Another server answers on the engine's port before it does; it has neither key nor model."""
    process = here.hpcvlm.start(*here.arguments("shared", "--executor", "local", mode="slow"))
    until(lambda: bool(here.state("shared").get("port")), "no port is chosen")
    port = str(here.state("shared")["port"])
    with subprocess.Popen([sys.executable, "-c", SECOND_SERVER, port]) as other:
        try:
            _, stderr = process.communicate(timeout=120)
        finally:
            other.kill()
    assert process.returncode in (0, 5), stderr
    if process.returncode == 0:  # the engine found it taken, and chose another one
        assert str(here.state("shared")["port"]) != port
    else:
        assert "it answered without the key" in stderr
        assert "try:" in stderr
