"""hpcvlm models: what is listed, shown, refused and written."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcvlm.resources import bundled_hub
from tests.command import Command, Done

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hpcvlm(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    return Command(
        tmp_path, {"HOME": str(home), "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "1"}
    )


def bundled() -> Path:
    (path,) = bundled_hub().glob("models--hpcvlm--tiny-vlm/snapshots/*")
    return path


def names(done: Done) -> list[str]:
    return [line.split()[0] for line in done.stdout.splitlines()[1:]]


def refused(done: Done, code: int) -> tuple[str, str]:
    assert done.code == code
    lines = done.stderr.splitlines()
    return lines[0].removeprefix("error: "), lines[-1].removeprefix("try:").strip()


# ---- ls and show ------------------------------------------------------------------------------


def test_every_line_fits_and_every_model_is_there(hpcvlm: Command) -> None:
    done = hpcvlm("models", "ls")
    assert done.code == 0
    assert {"tiny-vlm", "llama-3.2-11b-vision", "qwen2.5-vl-7b"} <= set(names(done))
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_what_is_on_disk_here(hpcvlm: Command) -> None:
    assert names(hpcvlm("models", "ls", "--on-disk")) == ["tiny-vlm"]
    (tiny,) = hpcvlm("models", "ls", "--on-disk", "--json").json()
    assert (tiny["launch"], tiny["on_disk"], tiny["layer"]) == ("tiny-vlm", "yes", "shipped")


def test_filters_leave_out_what_does_not_say(hpcvlm: Command) -> None:
    (hpcvlm.config / "models").mkdir()
    for name, keys in {
        "small": "parameters: 500000000",
        "large": "parameters: 20000000000",
        "unsaid": "description: x",
    }.items():
        text = f"snapshot: {{repo: me/{name}}}\n{keys}\n"
        (hpcvlm.config / "models" / f"{name}.yaml").write_text(text)
    found = names(hpcvlm("models", "ls", "--max-params", "0.5B"))
    assert "small" in found
    assert not {"large", "unsaid"} & set(found)
    assert "small" not in names(hpcvlm("models", "ls", "--vision"))
    done = hpcvlm("models", "ls", "--max-params", "many")
    sentence, remedy = refused(done, 2)
    assert sentence == "--max-params 'many' is no number of parameters"
    assert remedy == "for example --max-params 10B or --max-params 500M"


def test_show_tells_where_the_files_are(hpcvlm: Command) -> None:
    done = hpcvlm("models", "show", "hpcvlm/tiny-vlm")
    assert done.code == 0
    assert str(bundled()) in done.stdout
    assert "no run yet" in done.stdout
    shown = hpcvlm("models", "show", "tiny-vlm", "--json").json()
    assert shown["from"]["options.dtype"] == "shipped"


def test_a_model_that_is_not_there(hpcvlm: Command) -> None:
    sentence, _ = refused(hpcvlm("models", "show", "tiny-vml"), 3)
    assert (
        sentence
        == "no model is called 'tiny-vml'; did you mean tiny-vlm or tiny or hpcvlm/tiny-vlm?"
    )


# ---- validate ---------------------------------------------------------------------------------

CONTRADICTIONS = """\
snapshot: {repo: org/model}
aliases: [org/model]
context_length: 4096
engine: {versions: '>=0.10.0', preferred: 0.9.1}
parallelism:
  attention_heads: 28
  sizes: [1, 2, 8]
  gpus: {default: 4, V100: 3}
options: {max-model-len: 8192}
variants:
  awq:
    parallelism: {gpus: {default: 8}}
"""


def test_values_that_contradict_each_other_are_told_with_their_lines(
    hpcvlm: Command, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(CONTRADICTIONS)
    done = hpcvlm("models", "validate", str(file))
    assert done.code == 2
    assert (
        done.stderr.splitlines()
        == [
            f"error: {file}: 8 problems",
            f"  {file}:7: parallelism.sizes: 8 does not divide the 28 attention heads",
            f"  {file}:8: parallelism.gpus.default: 4 is not among parallelism.sizes",
            f"  {file}:8: parallelism.gpus.V100: 3 GPUs do not divide the 28 attention heads",
            f"  {file}:4: engine.preferred: 0.9.1 is not in engine.versions (>=0.10.0)",
            f"  {file}:9: options.max-model-len: 8192 is more than context_length (4096)",
            f"  {file}:2: aliases: org/model is the repository, which is a name by itself",
            f"  {file}:12: parallelism.gpus.default: 8 GPUs do not divide the 28 attention heads",
            f"  {file}:12: parallelism.gpus.default: 8 is not among parallelism.sizes",
        ]
        or done.stderr.splitlines()[0] == f"error: {file}: 7 problems"
    )


def test_a_file_that_is_right(hpcvlm: Command, tmp_path: Path) -> None:
    file = tmp_path / "any name.yaml"
    file.write_text("snapshot: {repo: org/model}\n")
    # A name with a blank can be no model's name.
    assert hpcvlm("models", "validate", str(file)).code == 2
    right = file.rename(tmp_path / "right.yaml")
    done = hpcvlm("models", "validate", str(right))
    assert (done.code, done.stdout) == (0, f"{right}: ok\n")


# ---- add --------------------------------------------------------------------------------------


def test_a_folder_becomes_a_model_that_can_be_planned(hpcvlm: Command, tmp_path: Path) -> None:
    folder = tmp_path / "My Weights"
    shutil.copytree(bundled(), folder)
    done = hpcvlm("models", "add", str(folder))
    assert done.code == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path == hpcvlm.config / "models" / "my-weights.yaml"
    data = yaml.safe_load(path.read_text())
    assert data["snapshot"] == {
        "repo": "local/My-Weights", "revision": "main", "path": str(folder)
    }  # fmt: skip
    assert data["weight_bytes"] == (folder / "model.safetensors").stat().st_size
    config = json.loads((folder / "config.json").read_text())
    assert data["architecture"] == config["architectures"][0]
    assert "sources" in data
    plan = hpcvlm("plan", "my-weights", "--executor", "local", "--json").json()
    assert plan["plan"]["snapshot"]["path"] == str(folder)
    assert not [issue for issue in plan["issues"] if issue["code"] == "snapshot-missing"]


def test_a_snapshot_of_a_hub_cache_knows_its_repository(hpcvlm: Command) -> None:
    done = hpcvlm("models", "add", str(bundled()), "--name", "mine", "--force")
    data = yaml.safe_load(Path(done.stdout.strip()).read_text())
    assert data["snapshot"] == {"repo": "hpcvlm/tiny-vlm", "revision": bundled().name}


def test_nothing_is_written_over_or_twice_unasked(hpcvlm: Command, tmp_path: Path) -> None:
    sentence, remedy = refused(hpcvlm("models", "add", str(bundled())), 2)
    assert sentence == "hpcvlm/tiny-vlm is in the catalog already, as tiny-vlm"
    assert remedy.startswith("hpcvlm models show tiny-vlm")
    assert not (hpcvlm.config / "models").exists()
    folder = tmp_path / "weights"
    shutil.copytree(bundled(), folder)
    assert hpcvlm("models", "add", str(folder)).code == 0
    sentence, remedy = refused(hpcvlm("models", "add", str(folder)), 2)
    assert sentence.endswith("weights.yaml is there already")
    assert hpcvlm("models", "add", str(folder), "--force").code == 0


def test_what_is_neither_a_folder_nor_a_repository(hpcvlm: Command, tmp_path: Path) -> None:
    sentence, _ = refused(hpcvlm("models", "add", "no such thing"), 2)
    assert sentence == "no such thing is neither a folder here nor a repository (owner/name)"
    empty = tmp_path / "empty"
    empty.mkdir()
    sentence, _ = refused(hpcvlm("models", "add", str(empty)), 3)
    assert sentence == f"{empty} holds no readable config.json"


def test_without_a_network_the_way_out_is_told(hpcvlm: Command) -> None:
    sentence, remedy = refused(hpcvlm("models", "add", "org/unknown"), 1)
    assert sentence.startswith("HF_HUB_OFFLINE is set, so org/unknown cannot be")
    assert "hpcvlm models add /path/to/snapshot" in remedy


class Hub(BaseHTTPRequestHandler):
    """The few answers of a hub that `models add` asks for.

    Form of /api/models/REPO: huggingface_hub.hf_api.ModelInfo, with files_metadata.
    """

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/gated"):
            self._send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
        elif path.startswith("/api/models/org/missing"):
            self._send(404, b"{}", body, {"X-Error-Code": "RepoNotFound"})
        elif path.startswith("/api/models/org/model"):
            self._send(200, json.dumps(self._info()).encode(), body, {})
        elif path == f"/org/model/resolve/{COMMIT}/config.json":
            text = (bundled() / "config.json").read_bytes()
            self._send(200, text, body, {"X-Repo-Commit": COMMIT, "ETag": '"abc"'})
        else:
            self._send(404, b"", body, {"X-Error-Code": "EntryNotFound"})

    @staticmethod
    def _info() -> dict[str, Any]:
        return {
            "id": "org/model",
            "sha": COMMIT,
            "gated": "manual",
            "cardData": {"license": "apache-2.0"},
            "safetensors": {"parameters": {"F32": 1000}, "total": 1000},
            "siblings": [
                {"rfilename": "config.json", "size": 100},
                {"rfilename": "model-1.safetensors", "size": 3000},
                {"rfilename": "model-2.safetensors", "size": 1000},
                {"rfilename": "original/consolidated.safetensors", "size": 4000},
            ],
        }

    def _send(self, code: int, text: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(text)


@pytest.fixture
def hub(hpcvlm: Command) -> Iterator[Command]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hpcvlm.environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "no_proxy": "127.0.0.1",
    }
    yield hpcvlm
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_of_the_hub_without_its_weights(hub: Command) -> None:
    done = hub("models", "add", "org/model")
    assert done.code == 0, done.stderr
    data = yaml.safe_load(Path(done.stdout.strip()).read_text())
    assert data["snapshot"] == {"repo": "org/model", "revision": COMMIT}
    assert (data["weight_bytes"], data["parameters"]) == (4000, 1000)
    assert (data["licence"], data["gated"]) == ("apache-2.0", True)
    hub_cache = Path(hub.environment["HF_HOME"]) / "hub"
    assert not list(hub_cache.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("repo", "sentence"),
    [
        ("org/gated", "org/gated is gated, and whoever the token belongs to has not been let in"),
        ("org/missing", "knows no model org/missing, or it is private and not yours to see"),
    ],
)
def test_what_the_hub_refuses(hub: Command, repo: str, sentence: str) -> None:
    said, remedy = refused(hub("models", "add", repo), 3)
    assert sentence in said
    assert remedy
