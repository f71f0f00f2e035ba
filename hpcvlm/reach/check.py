"""Whether an engine answers on a way, and whether it is the one that is meant."""

from __future__ import annotations

import json

import httpx

from hpcvlm.errors import HpcvlmError
from hpcvlm.reach.ways import Way

_TIMEOUT_S = 10.0
_OK = 200
_REFUSED = (401, 403)


async def answers(way: Way) -> str:
    """Whether the engine says that it is well; gives what is wrong, or nothing."""
    try:
        status, _ = await _get(way, "/health", None)
    except httpx.HTTPError as error:
        trouble = way.trouble()
        return trouble.sentence if trouble else str(error) or type(error).__name__
    return "" if status == _OK else f"/health says {status}"


async def prove(way: Way, key: str) -> None:
    """Make sure that the engine at the end of a way is well, takes the key and has the model.

    Raises:
        HpcvlmError: ``endpoint-unreachable`` when it does not answer, ``key-refused`` when it
            takes the key for a wrong one, ``endpoint-another`` when it serves something else.
    """
    name = way.where.name
    if wrong := await answers(way):
        raise way.trouble() or HpcvlmError(
            "endpoint-unreachable",
            f"{name} does not answer: {wrong}",
            f"hpcvlm why {name} on the cluster, then the same command again",
        )
    try:
        status, body = await _get(way, "/v1/models", key)
    except httpx.HTTPError as error:
        raise HpcvlmError(
            "endpoint-unreachable",
            f"{name} does not list its models: {error}",
            f"hpcvlm smoke-test {name} on the cluster shows whether it is well",
        ) from None
    if status in _REFUSED:
        raise HpcvlmError("key-refused", f"{name} does not take the key in {way.where.key_file}")
    if status != _OK or way.where.model not in _listed(body):
        raise HpcvlmError(
            "endpoint-another",
            f"what answers at {way.route.target} does not serve {way.where.model}",
            f"hpcvlm smoke-test {name} on the cluster shows whether it is well",
        )


async def _get(way: Way, path: str, key: str | None) -> tuple[int, bytes]:
    base = "http://localhost" if way.socket else f"http://{way.route.target}"
    transport = httpx.AsyncHTTPTransport(uds=way.socket, trust_env=False)
    headers = {"Connection": "close"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    async with httpx.AsyncClient(
        transport=transport, trust_env=False, timeout=_TIMEOUT_S, headers=headers
    ) as client:
        answer = await client.get(base + path)
        return answer.status_code, answer.content


def _listed(body: bytes) -> list[str]:
    try:
        return [str(entry["id"]) for entry in json.loads(body)["data"]]
    except (ValueError, TypeError, KeyError):
        return []
