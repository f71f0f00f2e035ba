"""hpcvlm connect through a real sshd, from a machine that reaches nothing but the login node."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

from tests.command import ROOT
from tests.realparts import set_up
from tests.ssh_network import (
    ADDRESSES,
    KEY,
    LAPTOP,
    LOGIN,
    LOGIN_ADDRESS,
    NODE,
    OTHER,
    PATIENCE_S,
    Network,
    until,
)

pytestmark = pytest.mark.slow

REAL_ENVIRONMENT = dict(os.environ)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    sshd = set_up("sshd.sh", environment=REAL_ENVIRONMENT)
    folder = Path(tempfile.mkdtemp(prefix="hv"))  # the paths of sockets are to be short
    made = Network(folder, sshd)
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(folder)


class Laptop:
    """Runs `hpcvlm connect` on the laptop, with a home of its own."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.home = folder
        self.errors = folder / "stderr"
        self.temporary = network.folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(self.temporary)}
        self._started: list[subprocess.Popen[str]] = []

    def argv(self, *arguments: str | Path, login: str = f"root@{LOGIN_ADDRESS}") -> list[str]:
        options = ("--ssh-config", self.network.ssh_config)
        command = (sys.executable, "-m", "hpcvlm", "connect", "mine", "--login", login, *options)
        remote = ("--remote-command", self.network.remote_command)
        return self.network.on(LAPTOP, *command, *remote, *arguments)

    def __call__(
        self, *arguments: str | Path, login: str = f"root@{LOGIN_ADDRESS}"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*arguments, login=login),
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start it and wait until it is up."""
        with self.errors.open("w") as stderr:
            process = subprocess.Popen(
                self.argv("--json", "--poll", "1", *arguments),
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.said
        self.told = json.loads(line)
        return process

    @property
    def said(self) -> str:
        return self.errors.read_text()

    def ask(self, path: str = "/models") -> subprocess.CompletedProcess[str]:
        """One request from the laptop through the port."""
        authorization = f"Authorization: Bearer {Path(self.told['key_file']).read_text().strip()}"
        curl = ("curl", "-sS", "--noproxy", "*", "-m", "30", "-w", "\n%{http_code}")
        return subprocess.run(
            self.network.on(LAPTOP, *curl, "-H", authorization, self.told["base_url"] + path),
            capture_output=True,
            text=True,
            check=False,
        )

    def is_answered(self) -> bool:
        return self.ask().stdout.endswith("\n200")

    def ssh_pids(self) -> list[int]:
        return self.network.running(LAPTOP, "ssh")

    def leftovers(self) -> list[Path]:
        """What a session leaves: it must be nothing."""
        return [*(self.home / ".hpcvlm" / "connect").glob("*"), *self.temporary.iterdir()]

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def laptop(network: Network, tmp_path: Path) -> Iterator[Laptop]:
    made = Laptop(network, tmp_path)
    yield made
    made.close()
    for left in made.temporary.iterdir():  # of a test that failed
        shutil.rmtree(left)


@pytest.fixture(scope="module")
def engines(network: Network) -> dict[str, dict[str, Any]]:
    """One engine for each way to listen, on the node; gives what the status says of each."""
    socket = network.folder / "engine.sock"
    network.engine(NODE, "on-node", f"{ADDRESSES[NODE]}:23001")
    network.engine(NODE, "on-loopback", "127.0.0.1:23002")
    network.engine(NODE, "on-socket", str(socket))
    return {
        "node": {"listen": "node", "port": 23001, "job_id": "1"},
        "loopback": {"listen": "loopback", "port": 23002, "job_id": "2"},
        "socket": {"listen": "socket", "socket": str(socket), "job_id": "3"},
    }


LOOK = """
import json, os, pathlib, urllib.request
base, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
body = json.dumps({"said": "hello"}).encode()
url, headers = base + "/chat/completions", {"Authorization": "Bearer " + key}
request = urllib.request.Request(url, body, headers)
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).read().decode())
files = pathlib.Path.home().glob(".hpcvlm/connect/**/*")
print({str(f.name): oct(f.stat().st_mode) for f in files})
for process in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        if key.encode() in process.read_bytes():
            print("KEY IN", process.read_bytes())
    except OSError:
        pass
raise SystemExit(7)
"""


@pytest.mark.parametrize("listen", ["node", "loopback", "socket"])
def test_each_way_to_listen_is_reached_with_ssh_to_the_login_node_alone(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]], listen: str
) -> None:
    network.means(**engines[listen])
    done = laptop("--", sys.executable, "-c", LOOK)
    assert done.returncode == 7, done.stderr
    answer, files = done.stdout.splitlines()
    assert json.loads(answer) == {"by": f"on-{listen}", "said": "hello"}
    assert "'mine': '0o40700'" in files
    assert "'key': '0o100600'" in files
    assert not laptop.ssh_pids()
    assert not laptop.leftovers()


FROM_LOGIN = """
import asyncio, pathlib, sys
from hpcvlm.reach import check
from hpcvlm.reach.model import Via, Where, find_route
from hpcvlm.reach.ways import Login, way_maker
config, folder, host, port, key = sys.argv[1:]
at = Where("mine", "2", "tiny-vlm", "slurm", "loopback", host, int(port), None, "/k")
async def main():
    via = Via(config=config)
    login = Login(via, pathlib.Path(folder))
    way = way_maker(login, pathlib.Path(folder))(at, find_route(at, via, "login1"))
    await way.open()
    await check.prove(way, key)
    print("proved")
    await way.close()
    await login.close()
asyncio.run(main())
"""


def test_from_the_login_node_ssh_goes_straight_to_the_node(
    network: Network, engines: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    words = (network.ssh_config, network.folder, ADDRESSES[NODE], "23002", KEY)
    done = subprocess.run(
        network.on(LOGIN, sys.executable, "-c", FROM_LOGIN, *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "proved\n", done.stderr
    assert not network.running(LOGIN, "ssh")


def test_what_is_printed_can_be_evaluated_and_holds_no_key(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]]
) -> None:
    network.means(**engines["node"])
    process = laptop.start()
    assert Path(laptop.told["key_file"]).read_text() == KEY + "\n"
    assert "key" not in laptop.told
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert not laptop.leftovers()


def test_ssh_that_is_killed_is_made_again(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]]
) -> None:
    network.means(**engines["loopback"])
    laptop.start()
    for _ in range(2):
        assert laptop.is_answered()
        before = laptop.said.count("connected again")
        for pid in laptop.ssh_pids():
            with suppress(ProcessLookupError):  # one that went through another has ended with it
                os.kill(pid, signal.SIGKILL)
        until(lambda: laptop.said.count("connected again") > before, laptop.said)  # noqa: B023
    assert laptop.is_answered()
    assert "connection lost" in laptop.said


def test_a_cable_that_is_pulled_is_told_and_survived(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]]
) -> None:
    network.means(**engines["node"])
    process = laptop.start()
    network.cable(0, "down")
    try:
        until(lambda: "connection lost" in laptop.said, laptop.said)
        refused = laptop.ask()
        assert refused.stdout.endswith("\n503"), refused
        assert "cannot be reached now" in refused.stdout
        assert process.poll() is None
    finally:
        network.cable(0, "up")
    until(lambda: "connected again" in laptop.said, laptop.said)
    assert laptop.is_answered()


def test_nothing_is_lost_when_the_name_moves_to_its_successor(
    network: Network, laptop: Laptop
) -> None:
    old = network.engine(NODE, "first", "127.0.0.1:23011")
    network.engine(OTHER, "second", "127.0.0.1:23012")
    network.means(listen="loopback", port=23011, job_id="11")
    laptop.start()
    stop = network.folder / "stop"
    client = (sys.executable, ROOT / "tests" / "reach_client.py", stop, "4")
    environment = {"OPENAI_BASE_URL": laptop.told["base_url"], "OPENAI_API_KEY": KEY}
    sending = network.start(
        LAPTOP,
        *client,
        log="client",
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    ssh_before = laptop.ssh_pids()
    # What a successor does that is ready: the name means it, and its predecessor drains.
    network.means(listen="loopback", port=23012, job_id="12", host=ADDRESSES[OTHER], name="mine~2")
    drain = network.folder / "drain-first"
    drain.write_text("close")
    until(lambda: "mine~2 is job 12" in laptop.said, laptop.said)
    drain.write_text("refuse")
    # The way to the first job ends once nobody uses it, and the job with it.
    until(lambda: not set(ssh_before[1:]) <= set(laptop.ssh_pids()), "the old ssh stays")
    old.kill()
    stop.touch()
    told = json.loads(sending.communicate(timeout=60)[0])
    assert told["lost"] == []
    assert told["answered"]["first"] > 0
    assert told["answered"]["second"] > 0
    assert laptop.is_answered()


class Terminal:
    """A command at a terminal of its own, and somebody who reads and types."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.said = ""
        self._pid, self._end = pty.fork()
        if self._pid == 0:
            os.chdir(ROOT)
            os.execvpe(argv[0], argv, environment)  # noqa: S606

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._end)

    def until(self, done: Callable[[], object]) -> None:
        """Read until something is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, self.said
            if select.select([self._end], [], [], 0.1)[0]:
                with suppress(OSError):
                    self.said += os.read(self._end, 65536).decode()

    def hear(self, words: str) -> None:
        """Read until something was said."""
        self.until(lambda: words in self.said)

    def type(self, words: bytes) -> None:
        """Type."""
        os.write(self._end, words)

    def wait(self) -> int:
        """Wait for the end; gives the exit code."""
        status: list[int] = []

        def is_over() -> bool:
            pid, code = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid = 0
                status.append(os.waitstatus_to_exitcode(code))
            return bool(pid)

        self.until(is_over)
        return status[0]


def test_a_question_of_ssh_is_asked_once_at_the_terminal_and_ctrl_c_ends_it(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    # The login node takes this key only; the compute node takes the usual one without a question.
    locked = tmp_path / "locked"
    words: list[str | Path] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "open sesame", "-f"]
    subprocess.run([*words, locked], check=True)
    network.start_sshd(
        LOGIN, "-p", "2223", "-o", f"AuthorizedKeysFile={locked}.pub", "-o", "MaxAuthTries=2"
    )
    config = tmp_path / "config"
    config.write_text(
        f"Host locked\n  HostName {LOGIN_ADDRESS}\n  Port 2223\n  User root\n"
        f"  HostKeyAlias {LOGIN_ADDRESS}\n  IdentityFile {locked}\n"
        + network.ssh_config.read_text()
    )
    network.means(**engines["loopback"])
    argv = laptop.argv("--ssh-config", config, "--poll", "1", login="locked")
    with Terminal(argv, laptop.environment) as terminal:
        terminal.hear("Enter passphrase for key")
        terminal.type(b"open sesame\n")
        terminal.hear("Ctrl-C ends it")
        asked = network.folder / "asked"
        looks = len(asked.read_text().splitlines())
        terminal.until(lambda: len(asked.read_text().splitlines()) > looks + 1)
        terminal.type(b"\x03")
        assert terminal.wait() == 0, terminal.said
    assert terminal.said.count("Enter passphrase") == 1
    assert "connection lost" not in terminal.said
    assert not network.pids(LAPTOP)
    assert not laptop.leftovers()


def test_ctrl_c_in_a_command_reaches_the_command_alone(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]]
) -> None:
    network.means(**engines["loopback"])
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'interrupted\\n'))\n"
        "print('running', flush=True)\n"
        "time.sleep(2)\n"  # long enough for a way that was lost to be told
        + LOOK.replace("raise SystemExit(7)", "raise SystemExit(5)")
    )
    argv = laptop.argv("--poll", "1", "--", sys.executable, "-c", program)
    with Terminal(argv, laptop.environment) as terminal:
        terminal.hear("running")
        terminal.type(b"\x03")
        assert terminal.wait() == 5, terminal.said
    assert "interrupted" in terminal.said
    assert '"by": "on-loopback"' in terminal.said
    assert "connection lost" not in terminal.said
    assert not laptop.leftovers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_ssh_is_left_however_it_ends(
    network: Network,
    laptop: Laptop,
    engines: dict[str, dict[str, Any]],
    number: signal.Signals,
) -> None:
    network.means(**engines["socket"])
    process = laptop.start()
    assert laptop.ssh_pids()
    process.send_signal(number)
    code = process.wait(20)
    until(lambda: not network.pids(LAPTOP), "processes are left", 10)
    if number == signal.SIGKILL:
        # The next session of the name removes what this one could not.
        assert laptop.leftovers()
        again = laptop.start()
        again.send_signal(signal.SIGTERM)
        again.wait(20)
    else:
        assert code == 128 + number
    assert not laptop.leftovers()


def test_a_cluster_that_does_not_let_us_in_is_told_in_its_own_words(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    network.means(**engines["node"])
    stranger = laptop(login=ADDRESSES[NODE])
    assert stranger.returncode != 0
    assert "does not answer" in stranger.stderr

    config = network.ssh_config.read_text()
    unknown = tmp_path / "unknown"
    unknown.write_text(config.replace("/known\n", "/nothing-known\n"))
    done = laptop("--ssh-config", unknown)
    assert "host key of root@10.201.1.2 is not known here" in done.stderr
    assert "try:" in done.stderr

    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "new"], check=True
    )
    wrong = tmp_path / "wrong"
    wrong.write_text(config.replace(f"{network.folder}/laptop", str(tmp_path / "new")))
    done = laptop("--ssh-config", wrong)
    assert "did not let you in" in done.stderr
    assert "Permission denied (publickey" in done.stderr

    done = laptop("--remote-command", "/no/hpcvlm")
    assert "there is no /no/hpcvlm" in done.stderr
    assert "--remote-command" in done.stderr
    assert not network.pids(LAPTOP)
    assert not laptop.leftovers()


def test_a_login_node_that_forbids_forwarding_is_told_apart(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    network.means(**engines["node"])
    network.start_sshd(LOGIN, "-p", "2222", "-o", "AllowTcpForwarding=no")
    config = tmp_path / "config"
    config.write_text(f"Host closed\n  HostName {LOGIN_ADDRESS}\n  Port 2222\n  User root\n")
    known = network.folder / "known"
    first = known.read_text()
    known.write_text(first + first.replace(LOGIN_ADDRESS, f"[{LOGIN_ADDRESS}]:2222"))
    config.write_text(config.read_text() + network.ssh_config.read_text())
    done = laptop("--ssh-config", config, login="closed")
    assert done.returncode != 0
    assert "permits no forwarding" in done.stderr


def test_an_endpoint_that_is_over_ends_the_connection(
    network: Network, laptop: Laptop, engines: dict[str, dict[str, Any]]
) -> None:
    network.means(**engines["node"])
    process = laptop.start()
    network.means(state="ended", description="ended (stopped)")
    assert process.wait(40) != 0
    assert "the endpoint is over: ended (stopped)" in laptop.said
    assert not laptop.leftovers()
