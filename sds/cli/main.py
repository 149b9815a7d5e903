"""The command and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds import __version__
from sds.cli import access, storage
from sds.cli.client import fail
from sds.cli.output import Format, Output, show_item
from sds.cli.upgrade import upgrade
from sds.errors import SdsError

EPILOG = (
    "Exit status: 0 done; 1 refused or failed; 2 not understood; 3 the gateway can't be reached; 4 not confirmed. "
    "Environment: SDS_URL (http://127.0.0.1:8080), SDS_TOKEN_FILE (/var/lib/sds/admin.token)."
)

app = typer.Typer(
    name="sds",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="One pool out of many disks, thin volumes over NVMe/TCP and iSCSI.",
)
app.add_typer(storage.pool, name="pool")
app.add_typer(storage.disk, name="disk")
app.add_typer(storage.volume, name="volume")
app.add_typer(access.host, name="host")
app.add_typer(access.export, name="export")
app.add_typer(access.event, name="event")


@app.command()
def serve(
    *,
    data: Annotated[Path | None, typer.Option(help="The data folder.  [default: /var/lib/sds]")] = None,
    rest: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="[default: 127.0.0.1:8080]")] = None,
    nvme: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="[default: 127.0.0.1:4420]")] = None,
    iscsi: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="[default: 127.0.0.1:3260]")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with the same settings and more.")] = None,
    cores: Annotated[int | None, typer.Option(help="For the data path.  [default: half of them]")] = None,
) -> None:
    """Start engine, gateway and tiering, and keep them running until Ctrl-C."""
    # Imported here: it takes asyncio along, which the other commands start faster without.
    from sds.config import load  # noqa: PLC0415
    from sds.serve import main as supervise  # noqa: PLC0415

    given = {"data": data, "rest": rest, "nvme": nvme, "iscsi": iscsi, "cores": cores}
    try:
        supervise(load(config, {name: value for name, value in given.items() if value is not None}))
    except SdsError as error:
        fail(error.detail, hints={"field": error.field, "accepted": error.accepted})


app.command()(upgrade)


@app.command()
def version(output: Output = Format.TABLE) -> None:
    """Show the version."""
    show_item({"version": __version__}, output)


def main() -> None:
    """The entry point."""
    app()
