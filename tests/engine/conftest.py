"""One real endpoint for all tests of this folder: launched by hpcvlm, stopped at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command import Command


@dataclass(frozen=True, slots=True)
class RealEndpoint:
    """A running server: its address, its key, its model id, and how to read its log."""

    url: str
    key: str
    model: str
    name: str
    folder: Path
    command: Command

    def log_text(self) -> str:
        """Both streams of the engine."""
        return "".join(
            (self.folder / name).read_text(errors="replace")
            for name in ("engine.out", "engine.err")
        )


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory, vllm_cpu: Path) -> Iterator[RealEndpoint]:
    """The bundled model on real vLLM, on this machine."""
    command = Command(tmp_path_factory.mktemp("endpoint"), {"HPCVLM_VLLM": str(vllm_cpu)})
    done = command("launch", "tiny-vlm", "--executor", "local", "--name", "shared", "--json")
    assert done.code == 0, done.stderr
    row = done.json()
    yield RealEndpoint(
        url=row["url"].removesuffix("/v1"),
        key=Path(row["key_file"]).read_text().strip(),
        model=row["served_name"],
        name="shared",
        folder=Path(row["folder"]),
        command=command,
    )
    assert command("stop", "shared").code == 0
