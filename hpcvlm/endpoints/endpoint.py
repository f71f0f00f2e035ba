"""How a ready job is reached: address, key file, and the lines that a client needs."""

from __future__ import annotations

import json
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import PRIVATE_FILE

KEY_NAME = "key"
CLIENTS = ("curl", "openai", "litellm", "python")
_QUESTION = "What is shown in the image?"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that has proved that it answers.

    Attributes:
        url: ``http://host:port``, without /v1.
        key_file: the 0600 file that holds the key; the key itself is in no field.
        ends: seconds since the epoch at which the job's time is over, None when unknown.
    """

    name: str
    model: str
    url: str
    key_file: str
    ends: float | None

    @property
    def base_url(self) -> str:
        """What OpenAI clients call base_url."""
        return f"{self.url}/v1"


def make_endpoint(record: JobRecord, host: str, port: int, ends: float | None) -> Endpoint:
    """The endpoint of a job that listens on a host and port."""
    address = "127.0.0.1" if record.loopback else host
    return Endpoint(
        name=record.name,
        model=record.served_name,
        url=f"http://{address}:{port}",
        key_file=str(Path(record.folder) / KEY_NAME),
        ends=ends,
    )


def read_key(key_file: Path) -> str:
    """The key in a file that only its owner can read.

    Raises:
        HpcvlmError: ``key-missing`` or ``key-not-private``.
    """
    try:
        mode = stat.S_IMODE(key_file.stat().st_mode)
        key = key_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise HpcvlmError(
            "key-missing", f"cannot read the key in {key_file}: {error.strerror}"
        ) from None
    if mode & 0o077:
        raise HpcvlmError(
            "key-not-private",
            f"{key_file} can be read by others (mode {mode:04o})",
            f"chmod {PRIVATE_FILE:o} {shlex.quote(str(key_file))}, and launch again if it was read",
        )
    if not key:
        raise HpcvlmError("key-missing", f"the key file {key_file} is empty")
    return key


def exports(endpoint: Endpoint, key: str) -> str:
    """Shell lines that point OpenAI clients at the endpoint; for `eval "$(hpcvlm env NAME)"`."""
    values = {
        "OPENAI_BASE_URL": endpoint.base_url,
        "OPENAI_API_KEY": key,
        "OPENAI_MODEL": endpoint.model,
    }
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def snippet(endpoint: Endpoint, client: str, image: str) -> str:
    """A working example for one client; the key is read from its file, never printed.

    Args:
        endpoint: where to send it.
        client: one of `CLIENTS`.
        image: path of a picture to ask about.

    Raises:
        HpcvlmError: ``client-unknown``.
    """
    makers = {"curl": _curl, "openai": _openai, "litellm": _litellm, "python": _httpx}
    if client not in makers:
        raise HpcvlmError(
            "client-unknown", f"there is no snippet for {client!r}", f"one of {', '.join(CLIENTS)}"
        )
    return makers[client](endpoint, image)


def _curl(endpoint: Endpoint, image: str) -> str:
    body = json.dumps(
        {
            "model": endpoint.model,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:IMAGE"}},
                        {"type": "text", "text": _QUESTION},
                    ],
                }
            ],
        }
    )
    before, after = body.split("data:IMAGE")
    key, picture = shlex.quote(endpoint.key_file), shlex.quote(image)
    return f"""\
# The key goes from its file to curl through a pipe: it is in no argument list.
{{
  printf '%s' {shlex.quote(before)}
  printf 'data:image/png;base64,%s' "$(base64 -w0 {picture})"
  printf '%s' {shlex.quote(after)}
}} | curl --silent --show-error --noproxy '*' \\
  --config <(printf 'header = "Authorization: Bearer %s"\\n' "$(cat {key})") \\
  --header 'Content-Type: application/json' --data-binary @- \\
  {shlex.quote(endpoint.base_url + "/chat/completions")}
"""


def _python_preamble(endpoint: Endpoint, image: str) -> str:
    return f"""\
key = Path({endpoint.key_file!r}).read_text().strip()
picture = base64.b64encode(Path({image!r}).read_bytes()).decode()
messages = [{{"role": "user", "content": [
    {{"type": "image_url", "image_url": {{"url": f"data:image/png;base64,{{picture}}"}}}},
    {{"type": "text", "text": {_QUESTION!r}}},
]}}]
"""


def _openai(endpoint: Endpoint, image: str) -> str:
    return f"""\
import base64
from pathlib import Path

from openai import OpenAI

{_python_preamble(endpoint, image)}
client = OpenAI(base_url={endpoint.base_url!r}, api_key=key)
answer = client.chat.completions.create(model={endpoint.model!r}, messages=messages)
print(answer.choices[0].message.content)
"""


def _litellm(endpoint: Endpoint, image: str) -> str:
    return f"""\
import base64
from pathlib import Path

import litellm

{_python_preamble(endpoint, image)}
answer = litellm.completion(
    model={("hosted_vllm/" + endpoint.model)!r}, api_base={endpoint.base_url!r}, api_key=key,
    messages=messages,
)
print(answer.choices[0].message.content)
"""


def _httpx(endpoint: Endpoint, image: str) -> str:
    return f"""\
import base64
from pathlib import Path

import httpx

{_python_preamble(endpoint, image)}
answer = httpx.post(
    {(endpoint.base_url + "/chat/completions")!r},
    headers={{"Authorization": f"Bearer {{key}}"}},
    json={{"model": {endpoint.model!r}, "messages": messages}},
    timeout=120, trust_env=False,
)
print(answer.raise_for_status().json()["choices"][0]["message"]["content"])
"""
