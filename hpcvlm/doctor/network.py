"""Judges the network: from the node to the outside, and from here to the node."""

from __future__ import annotations

from collections.abc import Sequence

from hpcvlm.doctor.model import Check, Question
from hpcvlm.doctor.seen import Seen, number

PART = "node"
NETWORK = Question("node-network", PART, "outbound network")
REACH = Question("node-reach", PART, "reach from here")
# What curl calls its exit codes, curl(1).
_CURL = {
    5: "proxy not found",
    6: "name not found",
    7: "refused",
    28: "no answer",
    60: "certificate",
}


def judge_network(seen: Seen) -> Check:
    """Information only: jobs run offline."""
    proxies = ", ".join(words[0] for words in seen.get("proxy", ()) if words)
    through = f"; set: {proxies}" if proxies else "; no proxy is set"
    words = (seen.get("network") or [()])[0]
    if len(words) < 2:  # noqa: PLR2004 - code and what curl printed
        return NETWORK.unknown("there is no curl on the node")
    code = int(number(words[0]) or 0)
    if code == 0:
        status, _, seconds = words[1].partition(" ")
        return NETWORK.ok(f"reached, HTTP {status} in {number(seconds) or 0:.1f} s{through}")
    why = _CURL.get(code, f"curl's exit code {code}")
    return NETWORK.ok(f"not reached ({why}){through}; jobs need none")


def judge_reach(name: str, addresses: Sequence[str], outcome: str, *, loopback: bool) -> Check:
    """Whether this node could talk to an engine there.

    Args:
        name: the node's name.
        addresses: what it resolves to here; empty when it does not.
        outcome: of a TCP connection to a high port where nobody listens: ``refused`` (the node
            itself answered), ``open``, ``timed out`` or the system's words.
        loopback: whether the site's engines listen on their own node only.
    """
    instead = "'listen: loopback' in the site file; hpcvlm connect NAME then makes a way"
    if loopback:
        return REACH.skipped("the site's engines listen on their own node only")
    if not addresses:
        return REACH.warning(f"{name} is no known host here", instead)
    where = f"{name} ({addresses[0]})"
    if outcome in {"refused", "open"}:
        return REACH.ok(f"{where} answers on a high port, as a node without a firewall does")
    return REACH.warning(f"{where} does not answer on a high port: {outcome}", instead)
