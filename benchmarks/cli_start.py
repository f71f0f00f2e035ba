"""How long the command line takes to start: hpcvlm --version and ls, divided by vec-inf list."""

from __future__ import annotations

from peer import vec_inf
from place import workplace
from timing import (
    SAMPLE_HEADER,
    Check,
    Command,
    finish,
    interleaved,
    options,
    ratio,
    sample_rows,
    table,
)

TARGET = 0.7


def main() -> None:
    """Measure and print."""
    arguments = options(__doc__, rounds=15).parse_args()
    peer = str(vec_inf())
    hpcvlm = str(arguments.hpcvlm)
    with workplace() as place:
        commands = [
            Command("hpcvlm --version", [hpcvlm, "--version"], place.env),
            Command("hpcvlm ls", [hpcvlm, "ls"], place.env),
            Command("vec-inf list", [peer, "list"], place.env),
        ]
        samples = interleaved(commands, arguments.rounds)
    checks = []
    for ours in ("hpcvlm --version", "hpcvlm ls"):
        wall, user = ratio(samples, ours, "vec-inf list")
        checks.append(Check(f"{ours} / vec-inf list, wall", wall, TARGET))
        checks.append(Check(f"{ours} / vec-inf list, user CPU", user, TARGET))
    finish(
        checks, table(SAMPLE_HEADER, sample_rows(samples)), dict(samples), as_json=arguments.json
    )


if __name__ == "__main__":
    main()
