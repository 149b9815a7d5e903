"""The `sds` command.

`version` is all that it has so far: the commands that manage pools, disks, volumes, hosts and exports come with the
engine that they speak to.
"""

from __future__ import annotations

from importlib.metadata import version as installed_version

import typer

app = typer.Typer(name="sds", help="One pool out of many disks; thin volumes over NVMe/TCP and iSCSI.")


@app.callback()
def root() -> None:
    """One pool out of many disks; thin volumes over NVMe/TCP and iSCSI."""


@app.command()
def version() -> None:
    """Prints the version."""
    print(installed_version("sds"))


def main() -> None:
    """Entry point of the installed command."""
    app()
