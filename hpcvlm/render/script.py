"""From a plan to the text of its job. Pure: the same plan gives the same bytes."""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from hpcvlm.engines.model import ActivityMetrics
from hpcvlm.plan.chain import START_FAILURES
from hpcvlm.plan.model import LaunchPlan
from hpcvlm.render.model import JobFile, RenderedJob
from hpcvlm.render.safe_values import refuse_unsafe

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Template

SCRIPT_NAME = "job.sbatch"
PLAN_NAME = "plan.json"
READY_QUESTION = "What is shown in the image?"
_ANSWER_TOKENS = 32


class Materials(NamedTuple):
    """The shipped texts that a job is made of.

    Attributes:
        template: the Jinja2 text of templates/sbatch/single_node.sbatch.j2.
        guard: the source of the ASGI middleware that locks the server.
        picture_png: the picture that the job shows to the engine before it calls itself ready.
        parts: name and Jinja2 text of every templates/sbatch/*.sh.j2, which the template includes.
    """

    template: str
    guard: str
    picture_png: bytes
    parts: tuple[tuple[str, str], ...]


def render_job(
    plan: LaunchPlan, materials: Materials, compiled: BytecodeCache | None = None
) -> RenderedJob:
    """The script of a plan and the files that go into its job folder.

    Args:
        plan: what is launched.
        materials: what the job is made of.
        compiled: keeps the compiled template from one launch to the next; the script is the same.

    Raises:
        HpcvlmError: ``value-unsafe`` when a value cannot stand in a script at all.
    """
    data = dataclasses.asdict(plan)
    refuse_unsafe(data)
    payloads = {
        "guard": materials.guard.rstrip("\n"),
        "text": _chat(plan.served_name, READY_QUESTION, None),
        "image": _chat(plan.served_name, READY_QUESTION, materials.picture_png),
        # As vLLM writes it in /v1/models: without blanks, and with letters as they are.
        "listed": f'"id":{json.dumps(plan.served_name, ensure_ascii=False)}',
    }
    script = _template(materials.template, materials.parts, compiled).render(
        plan=plan,
        payloads=payloads,
        metrics=_counters(plan.activity),
        start_failures=START_FAILURES,
    )
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return RenderedJob(
        script, (JobFile(SCRIPT_NAME, script, 0o700), JobFile(PLAN_NAME, text, 0o600))
    )


def _chat(model: str, question: str, picture: bytes | None) -> str:
    """The body of one chat request, on one line, so that no heredoc can be ended by it."""
    content: list[Mapping[str, object]] = [{"type": "text", "text": question}]
    if picture is not None:
        encoded = base64.b64encode(picture).decode("ascii")
        url = f"data:image/png;base64,{encoded}"
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    body = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": _ANSWER_TOKENS,
    }
    return json.dumps(body, ensure_ascii=True)


def _counters(names: ActivityMetrics) -> list[tuple[str, str]]:
    """Names of metrics, and what the script calls what it adds up from each."""
    counters = (
        (names.running, "running"),
        (names.waiting, "waiting"),
        (names.finished, "finished"),
        (names.prompt_tokens, "prompt"),
        (names.generation_tokens, "generation"),
    )
    return [(name, counter) for name, counter in counters if name]


@cache
def _template(
    text: str, parts: tuple[tuple[str, str], ...], compiled: BytecodeCache | None
) -> Template:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({SCRIPT_NAME: text, **dict(parts)}),
        bytecode_cache=compiled,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # {# is bash's, as in ${#array[@]}
        comment_end_string="##}",
        autoescape=False,  # noqa: S701 - the product is a shell script, not HTML
    )
    environment.filters["sh"] = shell_word
    environment.filters["sbatch"] = sbatch_value
    environment.filters["comment"] = lambda value: " ".join(str(value).split())
    return environment.get_template(SCRIPT_NAME)


def shell_word(value: object) -> str:
    """A value as one word of bash, whatever it holds.

    A comma needs no quotes, but in an array it looks like a slip, to ShellCheck too (SC2054).
    """
    text = str(value)
    quoted = shlex.quote(text)
    return f"'{text}'" if "," in text and quoted == text else quoted


def sbatch_value(value: str) -> str:
    """A value as sbatch reads it on an ``#SBATCH`` line: quoted when it holds blanks or quotes."""
    if value and all(c.isalnum() or c in "-_./:,=@+%[]&|()*" for c in value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
