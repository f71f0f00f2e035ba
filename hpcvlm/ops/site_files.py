"""The site files of this user on this cluster."""

from __future__ import annotations

from hpcvlm.errors import HpcvlmError
from hpcvlm.ops.context import Context
from hpcvlm.system.files import read_text


def site_texts(ctx: Context) -> list[tuple[str, str, str]]:
    """(label, path, text) of the site files that are there, lowest first.

    Raises:
        HpcvlmError: ``file-unreadable``.
    """
    texts = []
    for label, path in (
        ("site", ctx.settings.site_file),
        ("user", ctx.settings.user_config / "site.yaml"),
    ):
        text = read_text(path)
        if text is not None:
            texts.append((label, str(path), text))
        elif path.exists():
            raise HpcvlmError("file-unreadable", f"{path} cannot be read", f"ls -l {path}")
    return texts
