"""hpcvlm connect on the cluster itself, and what it refuses before it does anything."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcvlm.errors import ExitCode
from tests.command import ROOT, Command

FAKE = ROOT / "tests" / "fake_vllm.py"
ASK = """
import json, os, urllib.request
base, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
request = urllib.request.Request(base + "/models", headers={"Authorization": "Bearer " + key})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(json.load(opener.open(request))["data"][0]["id"] == os.environ["OPENAI_MODEL"])
"""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-oProxyCommand=touch x"], "No such option"),
        (["--", "-oProxyCommand=touch x"], "no endpoint is called"),
        (["a;touch x"], "no endpoint is called"),
        (["$(touch x)"], "no endpoint is called"),
        (["mine", "--login", "-oProxyCommand=touch x"], "is no destination for ssh"),
        (["mine", "--login", "me@login;touch x"], "is no destination for ssh"),
        (["mine", "--login", "l", "--jump", "-x"], "is no destination for ssh"),
        (["mine", "--jump", "gate"], "of no use without --login"),
        (["mine", "--login", "l", "--ssh-config", "/no/such"], "is no file"),
        (["mine", "--port", "70000"], "--port"),
        (["nobody"], "no endpoint is called 'nobody'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    done = Command(tmp_path)("connect", *arguments)
    assert says in done.stderr
    assert done.code in (ExitCode.USAGE, ExitCode.NOT_FOUND)
    assert not (tmp_path / "state" / "connect").exists() or not list(
        (tmp_path / "state" / "connect").iterdir()
    )
    assert not (ROOT / "x").exists()


@pytest.fixture(scope="module", params=["loopback", "socket"])
def hpcvlm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Command]:
    """A ready endpoint, called t, on this machine."""
    folder = tmp_path_factory.mktemp(request.param)
    command = Command(folder, {"TMPDIR": "/tmp", "HOME": str(folder), "TZ": "UTC"})
    command.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines:\n  - {{version: 0.32.0, command: ['{FAKE}']}}\n"
    )
    try:
        done = command("launch", "tiny-vlm", "--name", "t", "--listen", request.param)
        assert done.code == 0, done.stderr
        yield command
    finally:
        command("stop", "--all")


@pytest.mark.slow
def test_a_command_runs_with_the_variables_and_its_exit_code_is_passed_on(
    hpcvlm: Command,
) -> None:
    done = hpcvlm("connect", "t", "--", sys.executable, "-c", ASK + "raise SystemExit(9)")
    assert (done.code, done.stdout) == (9, "True\n"), done.stderr
    assert "t is job" in done.stderr
    missing = hpcvlm("connect", "t", "--", "/no/such/command")
    assert "cannot run /no/such/command" in missing.stderr
    assert not list((hpcvlm.state / "connect").iterdir())


@pytest.mark.slow
def test_what_it_prints_is_what_a_shell_needs(hpcvlm: Command, tmp_path: Path) -> None:
    with hpcvlm.start("connect", "t") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        script = "".join(lines) + f"exec {sys.executable} -c '{ASK}'"
        said = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, check=True
        ).stdout
        assert said == "True\n"
        key = (hpcvlm.state / "jobs" / "t" / "key").read_text().strip()
        assert key not in "".join(lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_port_that_is_taken_is_refused_and_another_name_gets_another(hpcvlm: Command) -> None:
    with hpcvlm.start("connect", "t", "--json", "--show-key") as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["key"] == Path(told["key_file"]).read_text().strip()
        taken = hpcvlm("connect", "t", "--port", str(told["port"]))
        assert f"port {told['port']} of this machine cannot be had" in taken.stderr
        done = hpcvlm("connect", "t", "--", sys.executable, "-c", ASK)
        assert done.stdout == "True\n"
        process.terminate()
        assert process.wait(20) == 143


@pytest.mark.slow
def test_the_curl_snippet_and_the_smoke_test_reach_it(hpcvlm: Command) -> None:
    snippet = hpcvlm("snippet", "t")
    said = subprocess.run(
        ["bash", "-c", snippet.stdout], capture_output=True, text=True, check=False
    )
    assert "a red circle" in said.stdout, said.stderr
    cases = {r["name"]: r["verdict"] for r in hpcvlm("smoke-test", "t", "--json").json()["results"]}
    assert cases["models"] == "passed"
    assert cases["locked"] == "passed"


@pytest.mark.slow
def test_a_stopped_endpoint_ends_its_connection(hpcvlm: Command) -> None:
    with hpcvlm.start("connect", "t", "--json", "--poll", "1") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = json.loads(process.stdout.readline())
        assert told["pid"] == process.pid
        assert hpcvlm("stop", "t").code == 0
        assert process.wait(60) != ExitCode.DONE
        assert "the endpoint is over" in process.stderr.read()
    gone = hpcvlm("connect", "t")
    assert gone.code != ExitCode.DONE
    assert "the endpoint is over" in gone.stderr
    assert not list((hpcvlm.state / "connect").iterdir())
