"""Keeps the compiled job template, so that a launch need not compile it again."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

from jinja2.bccache import Bucket, BytecodeCache

from hpcvlm.system.files import make_private_folder, read_bytes, write_atomically


class TemplateCache(BytecodeCache):
    """Compiled templates in a private folder; one that cannot be read or written does no harm.

    Jinja2 itself refuses what another template, another Jinja2 or another Python has left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill the bucket, if there is something for it."""
        kept = read_bytes(self._folder / bucket.key)
        if kept is not None:
            bucket.load_bytecode(io.BytesIO(kept))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep what is in the bucket."""
        with suppress(OSError):
            make_private_folder(self._folder, exist_ok=True)
            write_atomically(self._folder / bucket.key, bucket.bytecode_to_string())
