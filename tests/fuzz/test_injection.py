"""Values that try to get out of a script, an option, a shell line or a Python snippet."""

from __future__ import annotations

import ast
import dataclasses
import os
import random
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcvlm.containers.order import BuildOrder, Directive
from hpcvlm.doctor.job import node_script
from hpcvlm.endpoints.endpoint import Endpoint, exports, snippet
from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.containers_order import render as render_build
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.render import script
from hpcvlm.render.safe_values import MOST_BYTES, refuse_unsafe
from hpcvlm.site.schema import EngineInstall
from tests.command import Command
from tests.fuzz import hostile, scripts_in_bash
from tests.fuzz.hostile_plans import LIMITED, Hostility, shapes, unlimited_places
from tests.fuzz.scripts_in_bash import sbatch_words
from tests.job_fixtures import FAKE_SITE, site
from tests.realparts import SlurmCluster

FEW = 2000
MANY = 30_000

any_text = st.text(st.characters(codec="utf-8"), max_size=60)
words = st.lists(st.sampled_from((*hostile.WORDS, *hostile.REFUSED)), max_size=8).map("".join)
texts = any_text | words


def usable(text: str) -> bool:
    """Whether a script may hold a text."""
    try:
        refuse_unsafe({"x": text})
    except HpcvlmError as error:
        assert error.code == "value-unsafe"
        assert error.remedy
        assert error.sentence.isprintable()
        return False
    return True


def test_nothing_gets_out_of_a_script() -> None:
    tally = scripts_in_bash.run(FEW)
    assert tally.problems == []
    assert tally.texts >= FEW


@pytest.mark.slow
def test_nothing_gets_out_of_many_scripts() -> None:
    seed = random.SystemRandom().randrange(10**9)
    tally = scripts_in_bash.run(MANY, seed)
    assert tally.problems == [], f"seed {seed}"


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("shell_word", lambda value: f'"{value}"'),
        ("shell_word", lambda value: "'" + str(value) + "'"),
        ("shell_word", lambda value: str(value).replace(" ", "\\ ")),
        ("sbatch_value", lambda value: f'"{value}"'),
        ("refuse_unsafe", lambda _: None),
    ],
)
def test_the_search_finds_what_it_looks_for(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[[object], object]
) -> None:
    monkeypatch.setattr(script, name, broken)
    monkeypatch.setattr(scripts_in_bash, "BATCH", len(shapes()))
    script._template.cache_clear()
    try:
        assert scripts_in_bash.run(1).problems
    finally:
        script._template.cache_clear()


def test_every_place_of_a_plan_is_filled_or_limited(tmp_path: Path) -> None:
    for base in shapes():
        filled(base, tmp_path)


def filled(base: LaunchPlan, folder: Path) -> None:
    plan = Hostility(random.Random(folder.name), folder).plan(base)
    same = {name for name in unlimited_places(base) if getattr(plan, name) == getattr(base, name)}
    assert same == set(), f"hostile in tests/fuzz, or limited by whom? {same}"
    assert {field.name for field in dataclasses.fields(base)} >= set(LIMITED)


@given(texts)
@example("\n")
@example("\ud800")
@example("x" * MOST_BYTES)
@settings(deadline=None)
def test_one_word_stays_one_word(text: str) -> None:
    if usable(text):
        assert shlex.split(script.shell_word(text)) == [text]
        assert "\n" not in script.shell_word(text)


@given(texts)
@settings(deadline=None)
def test_one_option_stays_one_option(text: str) -> None:
    if usable(text):
        line = f" --comment={script.sbatch_value(text)}"
        assert sbatch_words(line) == [f"--comment={text}"]


@given(any_text)
@settings(deadline=None)
def test_what_is_refused_cannot_be_seen_or_ends_a_line(text: str) -> None:
    bidi = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    bad = [
        c
        for c in text
        if ord(c) < 32 or 127 <= ord(c) < 160 or c in bidi or len(c.splitlines()) > 1
    ]
    lines = [c for c in text if f"a{c}b".splitlines() != [f"a{c}b"]]
    assert usable(text) == (not bad and not lines)


@pytest.mark.parametrize("size", [MOST_BYTES - 1, MOST_BYTES, 10_000_000])
def test_a_value_that_linux_takes_as_no_argument_is_refused_at_once(size: int) -> None:
    assert usable("x" * size) == (size < MOST_BYTES)
    assert usable("é" * (size // 2 + 1)) == (size < MOST_BYTES - 1)


def test_what_is_just_short_enough_reaches_a_program(tmp_path: Path) -> None:
    value = "é" * ((MOST_BYTES - 1) // 2)
    assert usable(value)
    line = (
        f"printf %s {script.shell_word(value)} | wc -c; /bin/echo {script.shell_word(value)} >x\n"
    )
    done = subprocess.run(
        ["bash"], input=line, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr == ""
    assert (tmp_path / "x").read_text().strip() == value


def bash(text: str, folder: Path) -> list[str]:
    """What a text does in bash: the words that it prints, each ended by NUL."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["bash"], input=text.encode(), capture_output=True, check=False, cwd=folder
    )
    assert done.stderr == b""
    assert list(folder.iterdir()) == []
    return done.stdout.decode().split("\0")[:-1]


def hostile_texts(seed: int, number: int) -> Iterator[str]:
    rng = random.Random(seed)
    return (hostile.text(rng) for _ in range(number))


def test_shell_lines_of_env_stay_what_they_are(tmp_path: Path) -> None:
    lines, wanted = [], []
    for text in hostile_texts(1, 300):
        endpoint = Endpoint("n", text, "http://node07:1", "/k", None)
        lines += [exports(endpoint, text), 'printf "%s\\0" "$OPENAI_MODEL" "$OPENAI_API_KEY"']
        wanted += [text, text]
    assert bash("\n".join(lines), tmp_path / "cwd") == wanted


def test_shell_snippets_hold_no_second_command(tmp_path: Path) -> None:
    stubs = (
        'curl() { local w; for w; do case $w in --config | /dev/fd/*) ;; *) printf "%s\\0" "$w" ;; '
        "esac; done; command -p cat >/dev/null; }\n"
        'cat() { printf "%s\\0" "cat $1" >&2; }\nbase64() { printf x; }\n'
    )
    for text in hostile_texts(2, 40):
        endpoint = Endpoint("n", text, "http://node07:1", f"/{text}", None)
        given = bash(
            f"{stubs}{{ {snippet(endpoint, 'curl', f'/{text}')}\n}} 2>/dev/null", tmp_path / "c"
        )
        assert given[-1] == "http://node07:1/v1/chat/completions"


@pytest.mark.parametrize("client", ["openai", "litellm", "python"])
def test_python_snippets_hold_texts_and_nothing_else(client: str) -> None:
    def shape(code: str) -> str:
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant):
                node.value = 0
        return ast.dump(tree)

    plain = Endpoint("n", "model", "http://node07:1", "/key", None)
    expected = shape(snippet(plain, client, "/picture"))
    for text in hostile_texts(3, 300):
        endpoint = Endpoint("n", text, "http://node07:1", f"/{text}", None)
        assert shape(snippet(endpoint, client, f"/{text}")) == expected, text


def build_order(texts: Iterator[str]) -> BuildOrder:
    return BuildOrder(
        image=next(texts),
        partial=next(texts),
        folder=next(texts),
        source=next(texts),
        runtime="apptainer",
        engine="vllm",
        build=tuple(next(texts) for _ in range(4)),
        version=next(texts),
        ask=(next(texts), next(texts)),
        replace=False,
        temporary="$TMPDIR/x",
        cache=next(texts),
        work=next(texts),
        need_temporary=1,
        need_cache=1,
        need_image=1,
        modules=(next(texts),),
        proxies=(("http_proxy", next(texts)),),
        sbatch=(Directive("comment", next(texts)), Directive("account", next(texts))),
    )


def test_the_script_of_a_build_holds_its_values(tmp_path: Path) -> None:
    texts = hostile_texts(4, 10_000)
    for number in range(25):
        order = build_order(texts)
        text = render_build(order)
        head, _, rest = text.partition("\nfolder=")
        assert all(
            line.startswith("#")
            for line in head.split("\n")
            if line and not line.startswith(("set ", "export LC"))
        )
        options = [
            w
            for line in head.split("\n")
            if line.startswith("#SBATCH")
            for w in sbatch_words(line[7:])
        ]
        assert options == [f"--{o.name}={o.value}" for o in order.sbatch]
        values = "folder=" + rest.partition("\nscratch=")[0]
        shown = '"$folder" "$image" "$partial" "$cache" "${build[@]}" "$version" "${ask[@]}"'
        assert bash(f"{values}\nprintf '%s\\0' {shown}\n", tmp_path / str(number)) == [
            *(order.folder, order.image, order.partial, order.cache),
            *(*order.build, order.version, *order.ask),
        ]
        checked = subprocess.run(
            ["bash", "-n"], input=text.encode(), capture_output=True, check=False
        )
        assert checked.stderr == b""


def test_the_script_of_the_doctor_holds_its_values(tmp_path: Path) -> None:
    texts = hostile_texts(5, 10_000)
    body = '#!/bin/bash\nprintf \'%s\\0\' "$folder" "$url" "${modules[@]}" "${folders[@]}" each\n'
    body += "try_image() { printf '%s\\0' \"$@\"; }\neach_engine\n"
    for number in range(25):
        modules, folders = [next(texts), next(texts)], [next(texts), next(texts)]
        image, command, folder, url = next(texts), next(texts), next(texts), next(texts)
        install = EngineInstall(version="0.32.0", image=image, command=(command, "x"))
        options = {"comment": next(texts), "account": next(texts)}
        here = site().model_copy(update={"modules": tuple(modules), "runtime": "apptainer"})
        text = node_script(
            body,
            options,
            folder=folder,
            site=here,
            installs=[install],
            gpus=1,
            url=url,
            folders=folders,
            cache="/c",
        )
        heard = bash(text, tmp_path / str(number))
        assert heard[:7] == [folder, url, *modules, *folders, "each"]
        assert image in heard[7:]


SLURM_TEXTS = 40


@pytest.mark.slow
@pytest.mark.slurm
def test_the_real_sbatch_reads_options_as_they_were_meant(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    environment = {**os.environ, **slurm_cluster.environment}
    wanted, lines = [], ["cd " + shlex.quote(str(tmp_path))]
    for number, text in enumerate(hostile_texts(6, SLURM_TEXTS)):
        plain = " ".join(text.split())[:500].strip()
        wanted.append(plain)
        file = tmp_path / f"{number}.sh"
        file.write_text(
            f"#!/bin/bash\n#SBATCH --comment={script.sbatch_value(plain)}\n#SBATCH --hold\n"
            "#SBATCH --output=/dev/null\n: >ran\n"
        )
        lines.append(f"sbatch --parsable {number}.sh")
    done = subprocess.run(
        ["bash"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    ids = done.stdout.split()
    try:
        assert len(ids) == SLURM_TEXTS, done.stderr
        shown = subprocess.run(
            ["squeue", "--noheader", "--format=%i|%k"],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout
        found = dict(re.findall(r"^(\d+)\|(.*)$", shown, re.MULTILINE))
        assert [found[job_id] for job_id in ids] == [text or "(null)" for text in wanted]
    finally:
        subprocess.run(["scancel", *ids], env=environment, check=True)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".sh"] * SLURM_TEXTS


@pytest.mark.slow
@pytest.mark.slurm
def test_a_launch_from_a_folder_with_every_sign_in_its_name(
    slurm_cluster: SlurmCluster, tmp_path: Path
) -> None:
    state = tmp_path / 'it\'s a "%j%%" $(touch canary)`touch canary`; #é*?&|<>{}[]!~=,'
    hpcvlm = Command(tmp_path, {**slurm_cluster.environment, "HPCVLM_STATE": str(state)})
    hpcvlm.site(FAKE_SITE)
    done = hpcvlm("launch", "tiny-vlm", "--gpus", "A100:1", "--name", "x")
    try:
        assert done.code == 0, done.stderr
        assert (state / "jobs" / "x" / "job.out").exists()
        assert hpcvlm("env", "x").code == 0
    finally:
        assert hpcvlm("stop", "x").code == 0
    assert list(tmp_path.rglob("canary")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"config", state.name}
