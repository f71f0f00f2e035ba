"""The bundled model names what it is shown, through the HTTP API of a real vLLM."""

from __future__ import annotations

import httpx
import pytest

from scripts.evaluate_tiny_vlm import evaluate
from tests.engine.conftest import RealEndpoint

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def test_pictures_it_was_never_trained_on(endpoint: RealEndpoint) -> None:
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    with httpx.Client(
        base_url=endpoint.url, headers=headers, timeout=60, trust_env=False
    ) as client:
        found = evaluate(client, endpoint.model, singles=200, pairs=100, seed=7)
    assert (found.singles.of, found.pairs.of) == (200, 100)
    assert found.singles.right >= 0.97 * found.singles.of, found.misses
    assert found.pairs.right >= 0.90 * found.pairs.of, found.misses
