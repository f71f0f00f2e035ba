from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hpcvlm.endpoints.endpoint import (
    CLIENTS,
    Endpoint,
    exports,
    make_endpoint,
    read_key,
    snippet,
)
from hpcvlm.endpoints.registry import all_records, find_record
from hpcvlm.errors import HpcvlmError
from hpcvlm.submit.record import JobRecord, read_record, write_record


def record(folder: Path, name: str, **over: object) -> JobRecord:
    values: dict[str, object] = {
        "schema": 1,
        "name": name,
        "model": "tiny-vlm",
        "served_name": "tiny-vlm",
        "executor": "slurm",
        "job_id": "41",
        "submitted": 100.0,
        "folder": str(folder / name),
        "time_limit_s": 1800,
        "start_timeout_s": 600,
        "gpus": "A100:1",
        "partition": None,
        "vision": True,
        "image_limit": 2,
        "media_root": "/m",
        "engine": "vllm 0.32.0",
        "loopback": False,
    }
    made = JobRecord(**{**values, **over})  # type: ignore[arg-type]
    (folder / name).mkdir(parents=True, exist_ok=True)
    write_record(made)
    return made


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = record(tmp_path, "a", warnings=("slow partition",))
    assert read_record(tmp_path / "a") == made
    assert (tmp_path / "a" / "record.json").stat().st_mode & 0o777 == 0o600


def test_a_broken_record_is_left_out_and_stops_nothing(tmp_path: Path) -> None:
    record(tmp_path, "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text('{"schema": 1, "na')
    (tmp_path / "empty").mkdir()
    assert [r.name for r in all_records(tmp_path)] == ["good"]
    assert all_records(tmp_path / "missing") == []


def test_names_prefixes_and_job_ids_find_a_record(tmp_path: Path) -> None:
    record(tmp_path, "tiny-vlm-ab12", job_id="41")
    record(tmp_path, "tiny-vlm-cd34", job_id="42")
    record(tmp_path, "qwen", job_id="43")
    assert find_record(tmp_path, "tiny-vlm-ab12").job_id == "41"
    assert find_record(tmp_path, "q").name == "qwen"
    assert find_record(tmp_path, "42").name == "tiny-vlm-cd34"


def test_an_ambiguous_prefix_names_what_it_could_mean(tmp_path: Path) -> None:
    record(tmp_path, "tiny-1")
    record(tmp_path, "tiny-2", job_id="42")
    with pytest.raises(HpcvlmError) as error:
        find_record(tmp_path, "ti")
    assert error.value.code == "endpoint-ambiguous"
    assert error.value.sentence == "'ti' is the beginning of 2 names: tiny-1, tiny-2"


@pytest.mark.parametrize("wanted", ["", "..", "/etc", "nothing"])
def test_an_unknown_name_is_not_found(tmp_path: Path, wanted: str) -> None:
    record(tmp_path, "tiny-1")
    with pytest.raises(HpcvlmError) as error:
        find_record(tmp_path, wanted)
    assert error.value.code == "endpoint-unknown"


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    record(tmp_path, "tiny-vlm")
    with pytest.raises(HpcvlmError, match="there is tiny-vlm"):
        find_record(tmp_path, "tiny-vml")


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    key.chmod(0o640)
    with pytest.raises(HpcvlmError) as error:
        read_key(key)
    assert error.value.code == "key-not-private"
    assert "secret" not in error.value.sentence + error.value.remedy
    key.chmod(0o600)
    assert read_key(key) == "secret"
    key.write_text("")
    with pytest.raises(HpcvlmError, match="empty"):
        read_key(key)


def endpoint(tmp_path: Path) -> Endpoint:
    key = tmp_path / "a key's file"
    key.write_text("k3y\n")
    key.chmod(0o600)
    return Endpoint("e", "org/model", "http://node07:23456", str(key), None)


def test_exports_quote_what_the_shell_would_change(tmp_path: Path) -> None:
    text = exports(endpoint(tmp_path), "k'e$y")
    done = subprocess.run(
        [
            "bash",
            "-c",
            text + '\nprintf "%s|" "$OPENAI_BASE_URL" "$OPENAI_API_KEY" "$OPENAI_MODEL"',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "http://node07:23456/v1|k'e$y|org/model|"


@pytest.mark.parametrize("client", CLIENTS)
def test_no_snippet_holds_the_key(tmp_path: Path, client: str) -> None:
    text = snippet(endpoint(tmp_path), client, "/pictures/it's.png")
    assert "k3y" not in text
    assert "http://node07:23456/v1" in text
    if client != "curl":
        compile(text, client, "exec")


def test_the_curl_snippet_sends_valid_json_and_keeps_the_key_out_of_argv(tmp_path: Path) -> None:
    picture = tmp_path / "it's.png"
    picture.write_bytes(bytes(range(256)) * 40)
    fake = tmp_path / "bin" / "curl"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/bash\ncat >"$OUT/body"\nprintf "%s\\n" "$@" >"$OUT/argv"\n'
        "while [ $# -gt 0 ]; do\n"
        '  if [ "$1" = --config ]; then cat "$2" >"$OUT/config"; fi\n  shift\ndone\n'
    )
    fake.chmod(0o755)
    subprocess.run(
        ["bash", "-c", snippet(endpoint(tmp_path), "curl", str(picture))],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin", "OUT": str(tmp_path)},
        check=True,
    )
    body = json.loads((tmp_path / "body").read_text())
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/png;base64,")
    assert "k3y" not in (tmp_path / "argv").read_text()
    assert (tmp_path / "config").read_text() == 'header = "Authorization: Bearer k3y"\n'


def test_an_unknown_client_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(HpcvlmError) as error:
        snippet(endpoint(tmp_path), "java", "x.png")
    assert (error.value.code, error.value.remedy) == (
        "client-unknown",
        "one of curl, openai, litellm, python",
    )


def test_a_loopback_endpoint_is_reached_on_loopback(tmp_path: Path) -> None:
    made = record(tmp_path, "a", loopback=True)
    assert make_endpoint(made, "node07", 80, None).url == "http://127.0.0.1:80"
    made = record(tmp_path, "b")
    assert make_endpoint(made, "node07", 80, None).base_url == "http://node07:80/v1"
