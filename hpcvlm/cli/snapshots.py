"""hpcvlm snapshots: the model files on disk."""

from __future__ import annotations

import typer

from hpcvlm.cli.snapshots_archive import export_snapshot, import_snapshot
from hpcvlm.cli.snapshots_audit import audit
from hpcvlm.cli.snapshots_lock import lock, pin, unpin
from hpcvlm.cli.snapshots_ls import ls
from hpcvlm.cli.snapshots_prune import prune
from hpcvlm.cli.snapshots_pull import pull
from hpcvlm.cli.snapshots_show import show
from hpcvlm.cli.snapshots_verify import verify

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The model snapshots on disk, in hub caches."
)
for _name, _command in (
    ("ls", ls),
    ("show", show),
    ("pull", pull),
    ("verify", verify),
    ("pin", pin),
    ("unpin", unpin),
    ("lock", lock),
    ("prune", prune),
    ("audit", audit),
    ("export", export_snapshot),
    ("import", import_snapshot),
):
    app.command(_name)(_command)
