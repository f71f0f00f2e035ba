"""How long a launch takes: hpcvlm launch --no-wait, divided by vec-inf launch, on a real Slurm.

Both submit the same model with the same GPUs to the same cluster; a bare sbatch stands beside them
as the floor. For all three an sbatch on PATH adds --hold, so that no job starts and disturbs the
next measurement; every job is cancelled at once.
"""

from __future__ import annotations

import json
import shlex
import shutil

import peer
from place import FAKE_ENGINE, MODEL, cancel, need_slurm, workplace
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
    arguments = options(__doc__, rounds=15, slurm=True).parse_args()
    need_slurm()
    theirs = peer.vec_inf()
    with workplace(arguments.folder) as place:
        real = shlex.quote(shutil.which("sbatch") or "sbatch")
        wrapper = place.script("sbatch", f'#!/bin/sh\nexec {real} --hold "$@"\n')
        asked = {"partition": arguments.partition, "account": arguments.account}
        asked = {name: value for name, value in asked.items() if value}
        place.write_site(engines=[FAKE_ENGINE], executor="slurm", **asked)
        commands = [
            Command(
                "sbatch",
                # By its path: a program is looked for on our own PATH, not on the one it gets.
                [
                    str(wrapper),
                    "--parsable",
                    *(f"--{name}={value}" for name, value in asked.items()),
                    f"--gres=gpu:{arguments.gpus}",
                    "--output=/dev/null",
                    "--wrap=true",
                ],
                place.env,
                lambda out: cancel(out.strip().split(";")[0]),
            ),
            Command(
                "hpcvlm launch",
                [
                    str(arguments.hpcvlm),
                    *("launch", MODEL, "--no-wait", "--json"),
                    *("--gpus", arguments.gpus, "--time", "30m"),
                ],
                place.env,
                lambda out: cancel(str(json.loads(out)["job_id"])),
            ),
            Command(
                "vec-inf launch",
                [str(theirs), "launch", MODEL, "--json-mode"],
                peer.environment(
                    place,
                    gpus=arguments.gpus,
                    partition=arguments.partition,
                    account=arguments.account,
                ),
                lambda out: cancel(str(json.loads(out)["slurm_job_id"])),
            ),
        ]
        samples = interleaved(commands, arguments.rounds)
    wall, user = ratio(samples, "hpcvlm launch", "vec-inf launch")
    checks = [
        Check("hpcvlm launch / vec-inf launch, wall", wall, TARGET),
        Check("hpcvlm launch / vec-inf launch, user CPU", user, TARGET),
    ]
    finish(
        checks, table(SAMPLE_HEADER, sample_rows(samples)), dict(samples), as_json=arguments.json
    )


if __name__ == "__main__":
    main()
