"""Derives what each release of vLLM has: flags, architectures, parsers, defaults.

Reads vLLM's released source archives as text; vLLM is neither installed nor imported.

    python scripts/derive_vllm_tables.py           # writes hpcvlm/engines/data/*.json
    python scripts/derive_vllm_tables.py --check   # exit 1 if the files are not what it would write
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.vllm_tables import archives, compact, flags, registries  # noqa: E402
from scripts.vllm_tables.source import Release  # noqa: E402

DATA = ROOT / "hpcvlm" / "engines" / "data"
CACHE = Path.home() / ".cache" / "hpcvlm" / "vllm-sdist"
Table = dict[str, object]


def flag_table(releases: Sequence[Release]) -> Table:
    """Every flag: in which releases it is, and the successive kinds, choices and defaults."""
    per_release = [flags.FlagReader(release).read() for release in releases]
    table: Table = {}
    for name in compact.names(per_release):
        known = [(i, found[name]) for i, found in enumerate(per_release) if name in found]
        entry: Table = {
            "in": compact.spans([name in found for found in per_release]),
            "kind": compact.series((i, flags.kind_of(kwargs)) for i, kwargs in known),
        }
        for key, empty in (("default", None), ("choices", None), ("aliases", [])):
            values = [(i, compact.plain(kwargs.get(key, empty))) for i, kwargs in known]
            if any(value != empty for _, value in values):
                entry[key] = compact.series(values)
        deprecated = {i for i, kwargs in known if kwargs.get("deprecated")}
        if deprecated:
            entry["deprecated"] = compact.spans([i in deprecated for i in range(len(releases))])
        table[name] = entry
    return table


def architecture_table(releases: Sequence[Release]) -> Table:
    """Every registered architecture: in which releases, in which category, and V0-only where."""
    per_release = [registries.architectures(release) for release in releases]
    told = registries.named_table(releases[-1], "_PREVIOUSLY_SUPPORTED_MODELS")
    plugins = registries.named_table(releases[-1], "_OOT_SUPPORTED_MODELS")
    table: Table = {}
    for name in compact.names(per_release):
        known = [(i, found[name]) for i, found in enumerate(per_release) if name in found]
        entry: Table = {
            "in": compact.spans([name in found for found in per_release]),
            "category": compact.series((i, one.category) for i, one in known),
            "module": known[-1][1].module,
        }
        if any(one.multimodal for _, one in known):
            entry["multimodal"] = True
        v0_only = {i for i, one in known if one.v0_only}
        if v0_only:
            entry["v0_only"] = compact.spans([i in v0_only for i in range(len(releases))])
        table[name] = entry
    return {"architectures": table, "told": told, "plugins": plugins}


def version_table(releases: Sequence[Release]) -> Table:
    """Parsers, defaults that depend on the GPU, sizes, and the newest release's recipes."""
    constants = [registries.constants(release) for release in releases]
    return {
        "tool_parsers": compact.presence([registries.tool_parsers(r) for r in releases]),
        "reasoning_parsers": compact.presence([registries.reasoning_parsers(r) for r in releases]),
        "attention_backends": compact.presence(
            [registries.attention_backends(release) for release in releases]
        ),
        "inverse_flags": compact.spans([registries.has_inverse_flags(r) for r in releases]),
        "environment": compact.presence([registries.environment(r) for r in releases]),
        "batch_defaults": compact.series(
            (i, registries.batch_defaults(release)) for i, release in enumerate(releases)
        ),
        "constants": {
            name: {
                "in": compact.spans([name in found for found in constants]),
                "value": compact.series(
                    (i, found[name]) for i, found in enumerate(constants) if name in found
                ),
            }
            for name in compact.names(constants)
        },
        "recipes": registries.recipes(releases[-1]),
    }


def provenance(found: Sequence[archives.Archive]) -> Table:
    """What the tables were derived from."""
    return {
        "script": "scripts/derive_vllm_tables.py",
        "source": "released archives of https://pypi.org/project/vllm/",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "archives": {archive.name: archive.sha256 for archive in found},
    }


def text_of(table: Mapping[str, object]) -> str:
    """The file: compact, but with one entry a line, so that a new release makes a readable diff."""
    lines = []
    for key, value in table.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"{json.dumps(k)}:{_dense(v)}" for k, v in value.items())
            lines.append(f"{json.dumps(key)}:{{\n{inner}\n}}")
        else:
            lines.append(f"{json.dumps(key)}:{_dense(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dense(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def derived() -> dict[str, str]:
    """The content of every data file, by its name."""
    found = archives.listed()
    releases = [Release(archives.unpacked(archive, CACHE)) for archive in found]
    common: Table = {
        "provenance": provenance(found),
        "versions": [str(archive.version) for archive in found],
    }
    return {
        "vllm_flags.json": text_of(common | {"flags": flag_table(releases)}),
        "vllm_architectures.json": text_of(common | architecture_table(releases)),
        "vllm_versions.json": text_of(common | version_table(releases)),
    }


def differs(path: Path, text: str) -> bool:
    """Whether a file says anything else than `text`, the day of the derivation aside."""
    if not path.is_file():
        return True
    old, new = json.loads(path.read_text()), json.loads(text)
    old["provenance"].pop("date", None)
    new["provenance"].pop("date", None)
    return bool(old != new)


def main() -> int:
    """Write the tables, or compare them with what lies there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; tell a difference")
    checking = parser.parse_args().check
    changed = {name: text for name, text in derived().items() if differs(DATA / name, text)}
    for name, text in changed.items():
        if checking:
            sys.stderr.write(f"{DATA / name} is not what {Path(__file__).name} derives\n")
        else:
            DATA.mkdir(exist_ok=True)
            (DATA / name).write_text(text)
            sys.stdout.write(f"{DATA / name}: {len(text):,} bytes\n")
    return int(checking and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
