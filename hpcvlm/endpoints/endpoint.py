"""How a ready job is reached: address, key file, and the lines that a client needs."""

from __future__ import annotations

import json
import platform
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path

from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import JobRecord
from hpcvlm.system.files import PRIVATE_FILE

KEY_NAME = "key"
CLIENTS = ("curl", "openai", "litellm", "python")
_IMPORT_HTTPX = "\nimport httpx"
_QUESTION = "What is shown in the image?"
# What stands for a Unix socket in an address: HTTP wants a host, and nobody looks it up.
_SOCKET_URL = "http://localhost"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that has proved that it answers.

    Attributes:
        url: ``http://host:port``, without /v1. Of an endpoint that listens on loopback or on a
            socket it means something on `host` alone.
        key_file: the 0600 file that holds the key; the key itself is in no field.
        ends: seconds since the epoch at which the job's time is over, None when unknown.
        socket: path of the Unix socket on `host`, where it listens on one.
        host: the machine that it runs on; empty when unknown.
        listen: ``node``, ``loopback`` or ``socket``.
        port: None where it listens on a socket.
    """

    name: str
    model: str
    url: str
    key_file: str
    ends: float | None
    socket: str | None = None
    host: str = ""
    listen: str = "node"
    port: int | None = None

    @property
    def base_url(self) -> str:
        """What OpenAI clients call base_url."""
        return f"{self.url}/v1"


def make_endpoint(
    record: JobRecord,
    host: str,
    port: int | None,
    ends: float | None,
    socket: str | None = None,
) -> Endpoint:
    """The endpoint of a job that listens on a host and port, or on a socket of the host."""
    listen = _listen(record, socket)
    return Endpoint(
        name=record.name,
        model=record.served_name,
        url=_SOCKET_URL if listen == "socket" else f"http://{_address(listen, host)}:{port}",
        key_file=str(Path(record.folder) / KEY_NAME),
        ends=ends,
        socket=socket,
        host=host,
        listen=listen,
        port=None if listen == "socket" else port,
    )


def _listen(record: JobRecord, socket: str | None) -> str:
    if socket is not None:
        return "socket"
    return "loopback" if record.loopback or record.listen == "loopback" else "node"


def _address(listen: str, host: str) -> str:
    return "127.0.0.1" if listen == "loopback" else host


def same_machine(one: str, other: str) -> bool:
    """Whether two names of hosts, with or without their domains, are of one machine."""
    return one.partition(".")[0] == other.partition(".")[0]


def is_reachable_here(endpoint: Endpoint, here: str | None = None) -> bool:
    """Whether the endpoint's own address means the endpoint on this machine.

    Args:
        endpoint: what is to be reached.
        here: this machine's name; asked if left out.
    """
    return endpoint.listen == "node" or same_machine(endpoint.host, here or platform.node())


def shown_address(endpoint: Endpoint, here: str | None = None) -> str:
    """Its base URL or its socket, and the machine on which alone that means the endpoint.

    Args:
        endpoint: what is shown.
        here: this machine's name; asked if left out.
    """
    address = endpoint.socket or endpoint.base_url
    return address if is_reachable_here(endpoint, here) else f"{address} on {endpoint.host}"


def require_reachable_here(endpoint: Endpoint) -> None:
    """Refuse to give an address that means somebody else's program on this machine.

    Raises:
        HpcvlmError: ``endpoint-elsewhere``: it listens on another machine's loopback or socket.
    """
    if not is_reachable_here(endpoint):
        where = "a Unix socket" if endpoint.listen == "socket" else "the loopback address"
        raise HpcvlmError(
            "endpoint-elsewhere",
            f"{endpoint.name} listens on {where} of {endpoint.host} alone, which this machine "
            "does not reach directly",
            f"hpcvlm connect {endpoint.name}",
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
            "key-missing",
            f"cannot read the key in {key_file}: {error.strerror}",
            "try again in a moment: a job that runs puts its key back",
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
    """Shell lines that point OpenAI clients at the endpoint; for `eval "$(hpcvlm env NAME)"`.

    Raises:
        HpcvlmError: ``endpoint-elsewhere``: no address of this machine leads to it.
    """
    require_reachable_here(endpoint)
    if endpoint.socket is not None:
        raise HpcvlmError(
            "endpoint-elsewhere",
            f"{endpoint.name} listens on the Unix socket {endpoint.socket}, which no variable "
            "of OpenAI's clients can name",
            f"hpcvlm connect {endpoint.name}, or hpcvlm snippet {endpoint.name}",
        )
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
        HpcvlmError: ``client-unknown``; ``endpoint-elsewhere`` when no address of this machine
            leads to it, or the client takes no Unix socket.
    """
    require_reachable_here(endpoint)
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
    through = f" --unix-socket {shlex.quote(endpoint.socket)}" if endpoint.socket else ""
    return f"""\
# The key goes from its file to curl through a pipe: it is in no argument list.
{{
  printf '%s' {shlex.quote(before)}
  printf 'data:image/png;base64,%s' "$(base64 -w0 {picture})"
  printf '%s' {shlex.quote(after)}
}} | curl --silent --show-error --noproxy '*'{through} \\
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


def _transport(endpoint: Endpoint) -> str:
    return f"transport=httpx.HTTPTransport(uds={endpoint.socket!r})"


def _openai(endpoint: Endpoint, image: str) -> str:
    http_client = ""
    if endpoint.socket:
        http_client = f", http_client=httpx.Client({_transport(endpoint)})"
    return f"""\
import base64
from pathlib import Path
{_IMPORT_HTTPX if endpoint.socket else ""}
from openai import OpenAI

{_python_preamble(endpoint, image)}
client = OpenAI(base_url={endpoint.base_url!r}, api_key=key{http_client})
answer = client.chat.completions.create(model={endpoint.model!r}, messages=messages)
print(answer.choices[0].message.content)
"""


def _litellm(endpoint: Endpoint, image: str) -> str:
    if endpoint.socket:
        raise HpcvlmError(
            "endpoint-elsewhere",
            f"{endpoint.name} listens on a Unix socket, which litellm cannot be told",
            f"hpcvlm connect {endpoint.name}",
        )
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
    through = f", {_transport(endpoint)}" if endpoint.socket else ""
    return f"""\
import base64
from pathlib import Path

import httpx

{_python_preamble(endpoint, image)}
client = httpx.Client(timeout=120, trust_env=False{through})
answer = client.post(
    {(endpoint.base_url + "/chat/completions")!r},
    headers={{"Authorization": f"Bearer {{key}}"}},
    json={{"model": {endpoint.model!r}, "messages": messages}},
)
print(answer.raise_for_status().json()["choices"][0]["message"]["content"])
"""
