"""A laptop, a login node and two compute nodes: networks of their own on this machine.

The laptop reaches the login node alone, and nothing but ssh answers there; the login node reaches
the compute nodes. Each of the three runs a real sshd that knows the laptop's key.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.command import ROOT

LAPTOP, LOGIN, NODE, OTHER = "laptop", "login", "node", "other"
LOGIN_ADDRESS = "10.201.1.2"
ADDRESSES = {NODE: "10.201.2.2", OTHER: "10.201.3.2"}
ENGINE = ROOT / "tests" / "reach_engine.py"
PATIENCE_S = 60.0
KEY = "a-key-of-letters"
_CABLES = (
    (LAPTOP, "10.201.1.1", LOGIN, LOGIN_ADDRESS),
    (LOGIN, "10.201.2.1", NODE, ADDRESSES[NODE]),
    (LOGIN, "10.201.3.1", OTHER, ADDRESSES[OTHER]),
)


def until(done: Callable[[], Any], what: str = "", patience_s: float = PATIENCE_S) -> Any:
    """Wait for something to become true; gives it."""
    deadline = time.monotonic() + patience_s
    while not (found := done()):
        assert time.monotonic() < deadline, what or "it did not happen"
        time.sleep(0.05)
    return found


class Network:
    """The four machines, and what runs on them.

    Args:
        folder: for keys, sockets and logs; short, since paths of sockets are.
        sshd: path of sshd.
    """

    def __init__(self, folder: Path, sshd: str) -> None:
        self.folder = folder
        self._sshd = sshd
        self._processes: list[subprocess.Popen[str]] = []
        self._tag = f"hv{os.getpid()}"
        self.key_file = folder / "cluster-key"

    def up(self) -> None:
        """Make the machines, connect them, and start the servers."""
        for machine in (LAPTOP, LOGIN, NODE, OTHER):
            _ip("netns", "add", self.space(machine))
            _ip("-n", self.space(machine), "link", "set", "lo", "up")
        for number, (one, one_address, other, other_address) in enumerate(_CABLES):
            ends = (f"{self._tag}a{number}"[-15:], f"{self._tag}b{number}"[-15:])
            _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for end, machine, address in (
                (ends[0], one, one_address),
                (ends[1], other, other_address),
            ):
                _ip("link", "set", end, "netns", self.space(machine))
                space = ("-n", self.space(machine))
                _ip(*space, "link", "set", end, "name", f"cable{number}")
                _ip(*space, "addr", "add", f"{address}/24", "dev", f"cable{number}")
                _ip(*space, "link", "set", f"cable{number}", "up")
        self.key_file.write_text(KEY + "\n")
        self.key_file.chmod(0o600)
        for name in ("laptop", "host"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name],
                check=True,
            )
        host_key = (self.folder / "host.pub").read_text()
        (self.folder / "known").write_text(f"{LOGIN_ADDRESS} {host_key}")
        self.ssh_config = self.folder / "ssh_config"
        self.ssh_config.write_text(
            f"Host *\n  IdentitiesOnly yes\n  IdentityFile {self.folder}/laptop\n"
            f"  UserKnownHostsFile {self.folder}/known\n  GlobalKnownHostsFile none\n"
            "  ServerAliveInterval 1\n  ServerAliveCountMax 3\n  ConnectTimeout 5\n"
        )
        for machine in (LOGIN, NODE, OTHER):
            self.start_sshd(machine)

    def down(self) -> None:
        """Take everything away."""
        for process in self._processes:
            process.kill()
            process.wait()
        for machine in (LAPTOP, LOGIN, NODE, OTHER):
            for pid in self.pids(machine):
                os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", self.space(machine)], check=False)

    def space(self, machine: str) -> str:
        """The name of a machine's network name space."""
        return f"{self._tag}-{machine}"

    def on(self, machine: str, *argv: str | Path) -> list[str]:
        """A command line that runs another one on a machine."""
        return ["nsenter", f"--net=/run/netns/{self.space(machine)}", *map(str, argv)]

    def start(
        self, machine: str, *argv: str | Path, log: str, **options: Any
    ) -> subprocess.Popen[str]:
        """Start something on a machine."""
        with (self.folder / log).open("a") as stream:
            process = subprocess.Popen(
                self.on(machine, *argv),
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", stream),
                stderr=stream,
                text=True,
                **options,
            )
        self._processes.append(process)
        return process

    def start_sshd(self, machine: str, *options: str) -> subprocess.Popen[str]:
        """A real sshd with mounts of its own: it wants a user and a folder that nobody has here."""
        passwd = self.folder / "passwd"
        kept = [
            x for x in Path("/etc/passwd").read_text().splitlines() if not x.startswith("sshd:")
        ]
        passwd.write_text(
            "\n".join([*kept, "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin"]) + "\n"
        )
        mounts = (
            f"mount --bind {passwd} /etc/passwd && mount -t tmpfs tmpfs /run && mkdir /run/sshd "
            '&& exec "$@"'
        )
        settings = {
            "HostKey": self.folder / "host",
            "AuthorizedKeysFile": self.folder / "laptop.pub",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "MaxStartups": "100",
        }
        words = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        process = self.start(
            machine,
            *("unshare", "--mount", "sh", "-c", mounts, "sh"),
            *(self._sshd, "-D", "-e", "-f", "/dev/null", *options, *words),
            log=f"sshd-{machine}",
        )
        until(lambda: self.listens(machine, 22) or process.poll() is not None)
        assert process.poll() is None, (self.folder / f"sshd-{machine}").read_text()
        return process

    def listens(self, machine: str, port: int) -> bool:
        """Whether somebody listens on a port of a machine."""
        said = subprocess.run(
            self.on(machine, "ss", "-Hltn", f"sport = :{port}"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return bool(said.strip())

    def engine(self, machine: str, name: str, address: str) -> subprocess.Popen[str]:
        """Start a stand-in engine and wait until it listens."""
        process = self.start(
            machine,
            *(sys.executable, ENGINE, name, self.key_file, self.folder / f"drain-{name}", address),
            log=f"engine-{name}",
        )
        until((self.folder / f"engine-{name}").read_text, f"engine {name}")
        return process

    def means(
        self,
        name: str = "mine",
        *,
        job_id: str = "41",
        listen: str = "node",
        host: str = ADDRESSES[NODE],
        port: int | None = None,
        socket: str | None = None,
        **more: object,
    ) -> None:
        """What the login node's hpcvlm says of the name from now on."""
        at = {"node": f"{host}:{port}", "loopback": f"127.0.0.1:{port}", "socket": "localhost"}
        told = {
            "name": "mine",
            "job_name": name,
            "state": "ready",
            "description": "ready",
            "job_id": job_id,
            "served_name": "tiny-vlm",
            "executor": "slurm",
            "url": f"http://{at[listen]}/v1",
            "host": host,
            "socket": socket,
            "key_file": str(self.key_file),
            "ends": None,
            **more,
        }
        new = self.folder / "status.new"
        new.write_text(json.dumps(told, indent=2))
        new.rename(self.folder / "status.json")

    @property
    def remote_command(self) -> Path:
        """Stands for hpcvlm on the login node; its shell greets, as many do."""
        path = self.folder / "hpcvlm"
        asked = self.folder / "asked"
        path.write_text(
            f'#!/bin/sh\nprintf "%s " "$@" >>{asked}\nprintf "\\n" >>{asked}\n'
            f"echo Welcome to the cluster.\ncat {self.folder}/status.json\n"
        )
        path.chmod(0o755)
        return path

    def pids(self, machine: str) -> list[int]:
        """Every process of a machine."""
        said = subprocess.run(
            ["ip", "netns", "pids", self.space(machine)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [int(pid) for pid in said.split()]

    def running(self, machine: str, program: str) -> list[int]:
        """Processes of a machine that run a program."""
        found = []
        for pid in self.pids(machine):
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                    found.append(pid)
            except OSError:
                continue
        return found

    def cable(self, number: int, state: str) -> None:
        """Pull a cable out (``down``) or put it in (``up``)."""
        machine, address, *_ = _CABLES[number]
        _ip("-n", self.space(machine), "link", "set", f"cable{number}", state)
        assert address


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def lines_of(text: str) -> Sequence[str]:
    """Lines that say something."""
    return [line for line in text.splitlines() if line.strip()]
