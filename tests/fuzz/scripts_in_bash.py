"""Hostile values through rendered scripts and the real bash: nothing may run, all must arrive.

Every script is a whole one, rendered as a launch renders it, with a hostile text in each place that
a user, a site file, a model file or a folder's name can fill. The real bash runs it up to the
engine's start; in place of programs stand functions that note what they are given
(prelude.sh). A case is one such text in one place. It fails when anything ran that was in a text,
when a file came into being that the script does not make, or when an argument, variable, option or
path arrived that differs by one byte.

    python tests/fuzz/scripts_in_bash.py --cases 100000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hpcvlm.errors import HpcvlmError  # noqa: E402
from hpcvlm.ops.prepare import materials  # noqa: E402
from hpcvlm.plan.model import LaunchPlan  # noqa: E402
from hpcvlm.render.script import render_job  # noqa: E402
from tests.fuzz import hostile  # noqa: E402
from tests.fuzz.hostile_plans import OCI, Hostility, shapes  # noqa: E402

PRELUDE = Path(__file__).with_name("prelude.sh")
SEED = 20261121
BATCH = 50
BASH = shutil.which("bash") or "/bin/bash"
PROGRAMS = ("fuzz_engine", "apptainer", "singularity", *OCI)
_END = "\x01end\x01"  # no text that a script may hold has it
_SECONDS, _SECONDS_PER_SCRIPT = 60, 2


@dataclass
class Case:
    """One script, its folder, and what must arrive."""

    number: int
    folder: Path
    plan: LaunchPlan
    texts: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Tally:
    """What a run has done."""

    texts: int = 0
    scripts: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)


def run(cases: int, seed: int = SEED, told: Callable[[Tally], None] = lambda _: None) -> Tally:
    """Try so many texts."""
    rng = random.Random(seed)
    bases, tally, number = shapes(), Tally(), 0
    with tempfile.TemporaryDirectory(prefix="hpcvlm-fuzz.") as name:
        root = Path(name)
        make_programs(root / "programs")
        while tally.texts < cases:
            batch = []
            for _ in range(BATCH):
                case = make_case(rng, root / str(number), bases[number % len(bases)], number)
                tally.texts += case.texts + refused_too(rng, bases[0], tally)
                batch.append(case)
                number += 1
            run_batch(batch, root)
            for case in batch:
                check(case)
                tally.scripts += 1
                tally.problems += case.problems
                shutil.rmtree(case.folder)
            told(tally)
    return tally


def make_programs(folder: Path) -> None:
    """What a script can start: they note what they are given."""
    folder.mkdir()
    for name in PROGRAMS:
        started = "[[ $1 == run ]] || exit 0\n" if name in OCI else ""
        (folder / name).write_text(f'#!{BASH}\n{started}_engine {name} "$@"\n')
        (folder / name).chmod(0o755)


def make_case(rng: random.Random, folder: Path, base: LaunchPlan, number: int) -> Case:
    """One script in a folder of its own."""
    for part in ("there", "cwd", "out/scratch"):
        (folder / part).mkdir(parents=True)
    hostility = Hostility(rng, folder / "there")
    plan = hostility.plan(base)
    script = render_job(plan, materials_once()).script
    (folder / "job.sbatch").write_text(script, encoding="utf-8")
    return Case(number, folder, plan, hostility.texts)


def refused_too(rng: random.Random, base: LaunchPlan, tally: Tally) -> int:
    """Two texts that must be refused; gives how many were tried."""
    for where in (
        *rng.sample(("served_name", "folder", "media_root", "cache", "model"), 1),
        "list",
    ):
        text = hostile.refused_text(rng)
        changed: dict[str, Any] = (
            {where: text} if where != "list" else {"engine_arguments": (text,)}
        )
        try:
            render_job(dataclasses.replace(base, **changed), materials_once())
        except HpcvlmError as error:
            tally.refused += 1
            if error.code != "value-unsafe":
                tally.problems.append(f"{where} {text!r}: {error.code}")
            continue
        tally.problems.append(f"{where} {text!r} was taken")
    return 2


_MATERIALS: list[Any] = []


def materials_once() -> Any:
    """What scripts are made of, read once."""
    if not _MATERIALS:
        _MATERIALS.append(materials())
    return _MATERIALS[0]


def run_batch(batch: Sequence[Case], root: Path) -> None:
    """The scripts of a batch, one after another, each in a bash of its own."""
    driver = "".join(
        f'cd "$ROOT/{case.number}/cwd" && FUZZ_OUT="$ROOT/{case.number}/out" TMPDIR=/nowhere '
        f'BASH_ENV="$PRELUDE" "$BASH" ../job.sbatch >../said 2>&1 </dev/null; echo $? >../code\n'
        for case in batch
    )
    with subprocess.Popen(
        [BASH],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            "ROOT": str(root),
            "PATH": str(root / "programs"),
            "PRELUDE": str(PRELUDE),
            "HOME": str(root / "programs"),
            "FUZZ_END": _END,
            "CANARY": "$(: >canary)",
            "LC_ALL": "C.UTF-8",
            "SLURM_JOB_ID": "7",
        },
    ) as bash:
        try:
            bash.communicate(driver, timeout=_SECONDS + _SECONDS_PER_SCRIPT * len(batch))
        except BaseException:  # a script that hangs is ended, too
            os.killpg(bash.pid, signal.SIGKILL)
            raise
    assert bash.returncode == 0


def check(case: Case) -> None:
    """Compare what arrived with the plan; notes every difference."""
    out = case.folder / "out"
    told = (case.folder / "said").read_text(errors="replace")
    frames = list(_frames(out))
    _no_canary(case)
    _directives(case)
    starts = [words for kind, words in frames if kind == "argv"]
    if len(starts) != 1:
        _problem(case, f"the engine was started {len(starts)} times: {told[-500:]}")
        return
    _argv(case, starts[0])
    _variables(case, frames)
    _values(case, dict(words for kind, words in frames if kind == "value"))
    _messages(case, [words for kind, words in frames if kind == "timeout"])
    plan = case.plan
    if plan.modules and ["load", *plan.modules] not in [w for k, w in frames if k == "module"]:
        _problem(case, f"modules: {plan.modules!r} did not arrive")
    payload = Path(plan.folder, "payloads", "text.json").read_text(encoding="utf-8")
    if json.loads(payload)["model"] != plan.served_name:
        _problem(case, f"served_name: {plan.served_name!r} arrived as {payload!r}")
    state = Path(plan.folder, ".state.json.new").read_text(encoding="utf-8")
    if json.loads(state)["phase"] != "container":
        _problem(case, f"state.json: {state!r}")


def _variables(case: Case, frames: Sequence[tuple[str, list[str]]]) -> None:
    variables = dict(words for kind, words in frames if kind == "variable")
    for lines in (words for kind, words in frames if kind == "lines"):
        variables = dict(line.split("=", 1) for line in lines)
    for name, value in case.plan.environment:
        if variables.get(name) != value:
            _problem(case, f"variable {name}: {value!r} arrived as {variables.get(name)!r}")


def _values(case: Case, values: dict[str, str]) -> None:
    plan = case.plan
    for name, wanted in {
        "folder": plan.folder,
        "snapshot": plan.snapshot.path,
        "media_root": plan.media_root,
        "cache": plan.cache,
        "container_image": plan.engine.image,
        "webhook_file": plan.notify.webhook_file if plan.notify else None,
    }.items():
        if wanted is not None and values.get(name) != wanted:
            _problem(case, f"{name}: {wanted!r} arrived as {values.get(name)!r}")


def _messages(case: Case, told_to: Sequence[list[str]]) -> None:
    notify = case.plan.notify
    if notify is None:
        return
    if not any(_within(notify.command, words) for words in told_to):
        _problem(case, f"notify: {notify.command!r} arrived as {told_to!r}")
    if not any("mail" in words and words[-1] == notify.mail_to for words in told_to):
        _problem(case, f"mail: {notify.mail_to!r} arrived as {told_to!r}")


def _argv(case: Case, argv: Sequence[str]) -> None:
    plan = case.plan
    contained = plan.engine.image is not None
    oci = plan.runtime in OCI
    if contained and not oci:
        start = [plan.engine.image, *plan.engine.command]
    elif oci:
        start = [
            "--entrypoint",
            plan.engine.command[0],
            plan.engine.image,
            *plan.engine.command[1:],
        ]
    else:
        start = [*plan.engine.command]
    wanted = [*start, *plan.engine_arguments]
    if not _within(wanted, argv):
        _problem(case, f"arguments: {wanted!r} arrived as {list(argv)!r}")
    flag = "--volume" if oci else "--bind"
    for bind in plan.binds:
        if not _within([flag, bind.text], argv):
            _problem(case, f"bind: {bind.text!r} did not arrive in {list(argv)!r}")


def _within(wanted: Sequence[str | None], words: Sequence[str]) -> bool:
    return any(
        list(words[start : start + len(wanted)]) == list(wanted)
        for start in range(len(words) - len(wanted) + 1)
    )


def _no_canary(case: Case) -> None:
    for place, known in ((case.folder / "cwd", ()), (case.folder.parent / "programs", PROGRAMS)):
        for path in place.iterdir():
            if path.name not in known:
                _problem(case, f"this came into being in {place.name}: {path.name!r}")
                path.unlink()
    unknown = case.folder / "out" / "unknown"
    if unknown.exists():
        words = set("".join(c if c.isalnum() or c in "_-" else " " for c in _template()).split())
        strange = [line for line in unknown.read_text().splitlines() if line not in words]
        if strange:
            _problem(case, f"these were run: {strange}")


def _template() -> str:
    materials = materials_once()
    return "\n".join((materials.template, *(text for _, text in materials.parts)))


def _directives(case: Case) -> None:
    """The options that sbatch reads: until the first line that is neither empty nor a comment."""
    found = []
    for line in (case.folder / "job.sbatch").read_text(encoding="utf-8").split("\n"):
        if line.startswith("#SBATCH"):
            found += sbatch_words(line.removeprefix("#SBATCH"))
        elif line and not line.startswith("#"):
            break
    wanted = [f"--{o.name}={o.value}" if o.value else f"--{o.name}" for o in case.plan.sbatch]
    if found != wanted:
        _problem(case, f"options: {wanted!r} would be read as {found!r}")


def sbatch_words(line: str) -> list[str]:
    """The words of an ``#SBATCH`` line as sbatch splits it (src/sbatch/opt.c, _get_argument)."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    characters = iter(line)
    for character in characters:
        if character == "\\":
            word = [*(word or []), next(characters, "")]
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = [*(word or []), character]
        elif character in "'\"":
            quote, word = character, word or []
        elif character in " \t\n\v\f\r":
            if word is not None:
                words.append("".join(word))
            word = None
        elif character == "#" and word is None:
            break
        else:
            word = [*(word or []), character]
    return [*words, "".join(word)] if word is not None else words


def _frames(out: Path) -> Iterator[tuple[str, list[str]]]:
    for file in out.glob("frames.*"):
        text = file.read_bytes().decode("utf-8", "surrogateescape")
        for frame in text.split(f"{_END}\0")[:-1]:
            kind, *words = frame.split("\0")[:-1]
            yield kind, words


def _problem(case: Case, words: str) -> None:
    case.problems.append(f"script {case.number}: {words}")


def main() -> int:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    began = time.monotonic()

    def told(tally: Tally) -> None:
        if sys.stderr.isatty():
            print(f"\r{tally.texts} texts, {tally.scripts} scripts", end="", file=sys.stderr)

    tally = run(arguments.cases, arguments.seed, told)
    for problem in tally.problems[:20]:
        print(problem)
    print(
        f"{tally.texts} hostile texts in {tally.scripts} scripts through "
        f"{BASH}, {tally.refused} refused, "
        f"{len(tally.problems)} problems, seed {arguments.seed}, {time.monotonic() - began:.0f} s"
    )
    return bool(tally.problems)


if __name__ == "__main__":
    sys.exit(main())
