"""`sds upgrade`, which works on the data folder itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sds.cli.client import fail
from sds.cli.output import Format, Output, show_item
from sds.config import DATA_DEFAULT
from sds.errors import SdsError


def upgrade(
    *,
    data: Annotated[Path, typer.Option(help="The data folder; its server has to be stopped.")] = Path(DATA_DEFAULT),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do all of it on a copy, say what comes of it, and leave all as it is.")
    ] = False,
    backup: Annotated[
        Path | None, typer.Option(help="A folder to be made for the backup; DIR/backup-FORMAT-TIME if not given.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Upgrade a data folder that an older release wrote; a backup is made first. Disks are not touched.

    It can be cut off at any moment: the next run begins anew or finishes.
    """
    from sds.upgrade.run import upgrade as run  # noqa: PLC0415 - RocksDB and the core, which no other command needs.

    try:
        report = run(data.absolute(), backup.absolute() if backup else None, dry_run=dry_run)
    except SdsError as error:
        fail(error.detail, hints={"field": error.field, "accepted": error.accepted})
    if output is Format.JSON:
        show_item(report.items(), output)
        return
    lines = [f"{report.data} is of format {report.after} already: nothing to do"]
    if report.before != report.after:
        would = "would become" if report.dry_run else "was upgraded:"
        lines = [f"{report.data} {would} format {report.after}, from {report.before}"]
        lines += [f"  {change}" for change in report.changes]
        read = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in report.checked.items())
        lines += [f"read and understood: {read}"]
    if report.dry_run and report.before != report.after:
        lines += [f"it needs up to {report.needs_bytes} bytes of free space, its backup included; nothing was changed"]
    if report.backup:
        lines += [f"backup: {report.backup}", "to go back, with the server stopped, then start the former release:"]
        lines += [f"  {command}" for command in report.go_back]
    sys.stdout.write("\n".join(lines) + "\n")
