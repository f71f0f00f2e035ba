"""What ssh is told, and what its words mean. Options of ~/.ssh/config stay in force."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass

from hpcvlm.reach.model import Via

# A dead connection is noticed after three unanswered questions. Without this it is noticed when
# TCP gives up, after a quarter of an hour.
_ALIVE_INTERVAL_S = 5
_ALIVE_COUNT = 3
_LONGEST_INTERVAL_S = 30
_CONNECT_TIMEOUT_S = 15
# An ssh that shares a connection ends on Ctrl-C even where that is ignored (mux.c). What a user
# interrupts in a shell or a notebook is the program there, not the way to the engine.
_SESSION = (
    *(sys.executable, "-I", "-c"),
    "import os, sys; os.setsid(); os.execvp(sys.argv[1], sys.argv[1:])",
)


@dataclass(frozen=True, slots=True)
class Configured:
    """What ``ssh -G`` says of a destination: the user's configuration, evaluated.

    Attributes:
        user: the user name there.
        identities: key files that were named for it.
        alive_interval_s: ServerAliveInterval; 0 when it is off.
        has_connect_timeout: whether ConnectTimeout is set.
        asks_for_host_keys: whether StrictHostKeyChecking is ``ask``, which is its default.
    """

    user: str
    identities: tuple[str, ...]
    alive_interval_s: int
    has_connect_timeout: bool
    asks_for_host_keys: bool


@dataclass(frozen=True, slots=True)
class Hops:
    """What the commands of one session have in common.

    Attributes:
        via: how the cluster is reached.
        control: path of the socket through which the one connection to the login node is shared,
            so that a password or a code is asked for once.
    """

    via: Via
    control: str


def ask_configuration(via: Via, destination: str) -> list[str]:
    """The command whose output `parse_configuration` reads; it connects to nothing."""
    return ["ssh", *_config(via), "-G", "--", destination]


def parse_configuration(text: str) -> Configured:
    """What ``ssh -G`` printed; what it leaves out has ssh's default."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key, []).append(value)

    def first(key: str, default: str) -> str:
        return values.get(key, [default])[0]

    interval = first("serveraliveinterval", "0")
    return Configured(
        user=first("user", ""),
        identities=tuple(values.get("identityfile", [])),
        alive_interval_s=int(interval) if interval.isdigit() else 0,
        has_connect_timeout=first("connecttimeout", "none") != "none",
        asks_for_host_keys=first("stricthostkeychecking", "ask") == "ask",
    )


def master(hops: Hops, configured: Configured) -> list[str]:
    """The one connection to the login node that all others go through."""
    via = hops.via
    return [
        *("ssh", *_config(via), "-N", "-T"),
        *_options(ControlMaster="yes", ControlPath=_literal(hops.control), ControlPersist="no"),
        *_options(RemoteCommand="none", ClearAllForwardings="yes"),
        *_supervised(configured, may_ask=via.may_ask),
        *(["-J", via.jump] if via.jump else []),
        "--",
        via.login or "",
    ]


def forward(hops: Hops, verb: str, local: str, target: str) -> list[str]:
    """Tell the connection to the login node to begin, or to end, one forwarding.

    Args:
        hops: the session.
        verb: ``forward`` or ``cancel``.
        local: path of the socket here.
        target: ``HOST:PORT`` or a socket, as the login node names it.
    """
    return [*_shared(hops), "-O", verb, "-L", f"{local}:{target}", "--", hops.via.login or ""]


def remote_command(hops: Hops, words: str) -> list[str]:
    """Run a command line on the login node, through the connection that is there."""
    return [*_shared(hops), "-T", "--", hops.via.login or "", words]


def to_node(
    hops: Hops, node: str, local: str, target: str, *, login: Configured | None, to: Configured
) -> list[str]:
    """Forward a socket here to an address of a compute node, by ssh to that node.

    Args:
        hops: the session.
        node: where the engine runs.
        local: path of the socket here.
        target: the address or socket there.
        login: configuration for the login node that it goes through; None without one. The node
            belongs to the same cluster: the same user, the same keys.
        to: configuration for the node.
    """
    via = hops.via
    argv = ["ssh", *_config(via), "-N", "-T"]
    argv += _options(ControlMaster="no", ControlPath="none", ExitOnForwardFailure="yes")
    argv += _options(RemoteCommand="none")
    argv += _supervised(to, may_ask=via.may_ask)
    if login is not None:
        argv += ["-l", login.user]
        for identity in login.identities:
            argv += ["-i", identity]
        inner = [*_SESSION, *_shared(hops), "-W", "[%h]:%p", "--", via.login or ""]
        argv += _options(ProxyCommand=" ".join(_proxy_word(word) for word in inner))
    if to.asks_for_host_keys:
        # A successor may start on a node that was never seen, while nobody is there to say yes.
        # The cluster itself has named the node; a key that has changed is refused.
        argv += _options(StrictHostKeyChecking="accept-new")
    return [*argv, "-L", f"{local}:{target}", "--", node]


def _shared(hops: Hops) -> list[str]:
    return [
        *("ssh", *_config(hops.via)),
        *_options(ControlMaster="no", ControlPath=_literal(hops.control), BatchMode="yes"),
        # If the shared connection is gone, this must fail and not make a connection of its own.
        *_options(ProxyCommand="false", ProxyJump="none", RemoteCommand="none"),
    ]


def _supervised(configured: Configured, *, may_ask: bool) -> list[str]:
    options = _options(StreamLocalBindUnlink="yes", BatchMode="no" if may_ask else "yes")
    if not 0 < configured.alive_interval_s <= _LONGEST_INTERVAL_S:
        options += _options(
            ServerAliveInterval=str(_ALIVE_INTERVAL_S), ServerAliveCountMax=str(_ALIVE_COUNT)
        )
    if not configured.has_connect_timeout:
        options += _options(ConnectTimeout=str(_CONNECT_TIMEOUT_S))
    return options


def _config(via: Via) -> list[str]:
    return ["-F", via.config] if via.config else []


def _options(**values: str) -> list[str]:
    return [word for key, value in values.items() for word in ("-o", f"{key}={value}")]


def _literal(path: str) -> str:
    return path.replace("%", "%%")


def _proxy_word(word: str) -> str:
    """A word of a ProxyCommand: ssh replaces %h and %p in it and gives it to a shell."""
    if word == "[%h]:%p":
        return word
    return shlex.quote(word.replace("%", "%%"))


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why ssh could not do it.

    Attributes:
        lasting: whether trying again is of no use until somebody changes something.
        known: whether ssh's words were understood.
    """

    sentence: str
    remedy: str
    lasting: bool = True
    known: bool = True


def explain(words: str, destination: str, via: Via) -> Trouble:
    """What ssh's own words mean, and what to type next."""
    low = words.lower()
    try_it = shlex.join(
        ["ssh", *_config(via), *(["-J", via.jump] if via.jump else []), destination]
    )
    for needles, sentence, remedy, lasting in _MEANINGS:
        if any(needle in low for needle in needles):
            return Trouble(
                sentence.format(destination), remedy.format(try_it=try_it, at=destination), lasting
            )
    return Trouble(
        f"ssh to {destination} failed", f"{try_it} shows what is wrong", lasting=False, known=False
    )


# Words of OpenSSH's client: sshconnect.c, sshconnect2.c, clientloop.c, mux.c.
_MEANINGS: tuple[tuple[tuple[str, ...], str, str, bool], ...] = (
    (
        ("open failed: connect failed",),
        "{} cannot connect to the engine",
        "hpcvlm status shows whether it still runs",
        False,
    ),
    (
        ("remote host identification has changed", "host key for"),
        "the host key of {} is another one than before",
        "ask the centre whether it was changed; then: ssh-keygen -R {at}",
        True,
    ),
    (
        ("host key verification failed",),
        "the host key of {} is not known here",
        "log in once and compare its fingerprint: {try_it}",
        True,
    ),
    (
        ("pam_slurm_adopt", "no active jobs on this node"),
        "{} lets in only users that have a job there",
        "hpcvlm status shows whether the job still runs",
        False,
    ),
    (
        ("permission denied", "too many authentication failures"),
        "{} did not let you in",
        (
            "this must work without a question: {try_it} (a key in ssh-agent, for compute nodes "
            "in ~/.ssh/authorized_keys of the cluster); else launch with --listen node"
        ),
        True,
    ),
    (
        ("could not resolve hostname", "name or service not known"),
        "no machine is called {} here",
        "check the name; from outside the cluster give --login USER@HOST",
        False,
    ),
    (
        ("administratively prohibited", "forwarding disabled", "open failed: unknown channel"),
        "the ssh server of {} permits no forwarding",
        "ask the centre whether AllowTcpForwarding can be had, or work on the login node itself",
        True,
    ),
    (
        (
            "bad configuration option",
            "bad owner or permissions",
            "missing argument",
            "no such file or directory: identity",
            "can't open user config file",
        ),
        "the configuration of ssh cannot be used",
        "correct the file that it names",
        True,
    ),
    (
        ("too long for unix domain socket", "path too long"),
        "the path of a socket is too long",
        "set TMPDIR to a shorter folder, such as /tmp",
        True,
    ),
    (
        ("timed out", "no route to host", "network is unreachable", "not responding"),
        "{} does not answer",
        "check the network (VPN?); {try_it}",
        False,
    ),
    (
        ("connection refused", "connection closed", "connection reset", "broken pipe"),
        "{} does not take the connection",
        "{try_it} shows what is wrong",
        False,
    ),
)
