"""What an engine writes cannot speak to the terminal of whoever asks why it failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Command

pytestmark = pytest.mark.slow

# The title of the window, an answer from the terminal to its own input, colours, going back and
# over what stands there (xterm's control sequences).
ESCAPES = "\x1b]0;owned\x07\x1b[6n\x1b[2J\x1b[31m\x9b31m\rgone\x08\x08\x85\u202e"
ENGINE = f"""#!/usr/bin/env python3
import sys
bad = {ESCAPES!r}
print("INFO 11-21 04:26:10 [x.py:1] Starting to load model " + bad, flush=True)
print("torch.OutOfMemoryError: CUDA out of memory. " + bad + "Tried", flush=True)
print("RuntimeError: " + bad + " nobody knows this one", file=sys.stderr, flush=True)
sys.exit(1)
"""


def test_escape_sequences_of_an_engine_are_not_repeated(tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    hpcvlm = Command(tmp_path, {"PYTHONIOENCODING": "utf-8"})
    hpcvlm.site(
        "schema: 1\nexecutor: local\nruntime: none\n"
        f"engines: [{{version: 0.32.0, command: ['{engine}']}}]\n"
    )
    failed = hpcvlm("launch", "tiny-vlm", "--name", "t")
    assert failed.code == 5, failed.stderr
    assert "CUDA out of memory" in failed.stderr
    for words in (("why", "t"), ("status", "t"), ("ls", "--all"), ("why", "t", "--json")):
        done = hpcvlm(*words)
        said = done.stdout + done.stderr
        assert said
        assert not {c for c in said if not (c.isprintable() or c == "\n")}, words
    assert not {c for c in failed.stdout + failed.stderr if not (c.isprintable() or c == "\n")}
