"""Looks for a text that breaks a reader of files, led by the code that each text reaches.

Needs atheris (`pip install 'hpcvlm[fuzz]'`; it has wheels for a few versions of Python only). Ends
with the text that breaks a reader, and with nothing else before -max_total_time is over:

    python tests/fuzz/fuzz_yaml.py -max_total_time=600 FOLDER_OF_TEXTS
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

with atheris.instrument_imports(include=["hpcvlm"]):
    from tests.fuzz.yaml_kinds import kinds, problem_of

KINDS = tuple(kinds().values())
_MOST_BYTES = 20_000


def one_text(data: bytes) -> None:
    """Read one text as one kind of file; the first byte chooses."""
    if not data or len(data) > _MOST_BYTES:
        return
    text = data[1:].decode("utf-8", errors="surrogateescape")
    problem = problem_of(KINDS[data[0] % len(KINDS)], text)
    if problem:
        raise RuntimeError(problem)


def seeds(folder: Path) -> None:
    """The samples of every kind, to begin with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(KINDS):
        for sample, text in enumerate(kind.samples):
            (folder / f"{number}-{sample}").write_bytes(bytes([number]) + text.encode())


def main() -> None:
    """Run as a program; arguments are libFuzzer's."""
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if folders and not folders[0].exists():
        seeds(folders[0])
    atheris.Setup(sys.argv, one_text)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
