"""`sds host`, `sds export` and `sds event`."""

from __future__ import annotations

import itertools
import sys
from typing import Annotated, Any

import typer

from sds.cli.client import fail, items, request
from sds.cli.output import Format, Output, Yes, confirm, show_done, show_item, show_items

host = typer.Typer(no_args_is_help=True, help="Initiators, by the name that they give at login.")
export = typer.Typer(no_args_is_help=True, help="Volumes as hosts see them over a protocol.")
event = typer.Typer(no_args_is_help=True, help="What happened.")

Protocol = Annotated[str, typer.Option(help="nvme or iscsi.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="A host that may see it; again for each.")]
AnyHost = Annotated[bool, typer.Option("--any-host", help="Every host may see it.")]


@host.command("create")
def host_create(
    name: str,
    nqn: Annotated[str | None, typer.Option(help="What /etc/nvme/hostnqn on the host says.")] = None,
    iqn: Annotated[str | None, typer.Option(help="What /etc/iscsi/initiatorname.iscsi on the host says.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Note a host by its NQN, its IQN or both."""
    show_item(request("POST", "/v1/hosts", json={"name": name, "nqn": nqn, "iqn": iqn}), output)


@host.command("list")
def host_list(output: Output = Format.TABLE) -> None:
    """List hosts."""
    show_items(list(items("/v1/hosts")), ("name", "nqn", "iqn", "exports"), output)


@host.command("delete")
def host_delete(name: str, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Forget a host that no export names."""
    confirm(f"Delete host {name}", yes=yes)
    request("DELETE", f"/v1/hosts/{name}")
    show_done(f"host {name} was deleted", output)


@export.command("create")
def export_create(
    volume: str, protocol: Protocol, hosts: Hosts = None, any_host: AnyHost = False, output: Output = Format.TABLE
) -> None:
    """Show a volume to hosts over a protocol; prints what to type on the host."""
    body = {"volume": volume, "protocol": protocol, "hosts": hosts or None, "any_host": any_host or None}
    _show_export(request("POST", "/v1/exports", json=body), output)


@export.command("update")
def export_update(
    volume: str, protocol: Protocol, hosts: Hosts = None, any_host: AnyHost = False, output: Output = Format.TABLE
) -> None:
    """Change who may see an export: the hosts named, and no others."""
    body = {"hosts": hosts or None, "any_host": any_host or None}
    _show_export(request("PATCH", f"/v1/exports/{volume}.{protocol}", json=body), output)


@export.command("list")
def export_list(
    volume: Annotated[str | None, typer.Option(help="Of this volume alone.")] = None, output: Output = Format.TABLE
) -> None:
    """List exports."""
    shown = list(items("/v1/exports", volume=volume))
    if output is Format.TABLE:
        for one in shown:
            one["target"], one["unit"] = _target(one)
            one["hosts"] = "any" if one["any_host"] else one["hosts"]
    show_items(shown, ("volume", "protocol", "target", "unit", "address", "hosts"), output)


@export.command("delete")
def export_delete(
    volume: Annotated[str, typer.Argument(help="The volume; or the export's id, VOLUME.PROTOCOL.")],
    protocol: Annotated[str | None, typer.Option(help="nvme or iscsi.")] = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Take a volume away from its hosts over a protocol."""
    if ("." in volume) == (protocol is not None):
        fail("say which export", hints={"field": "protocol", "accepted": "VOLUME --protocol nvme|iscsi"})
    name = volume if protocol is None else f"{volume}.{protocol}"
    confirm(f"Take {name} away from its hosts", yes=yes)
    request("DELETE", f"/v1/exports/{name}")
    show_done(f"export {name} was deleted", output)


@event.command("list")
def event_list(
    level: Annotated[str | None, typer.Option(help="info, warning or error alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List what happened, the newest first."""
    newest = list(itertools.islice(items("/v1/events", level=level), limit))
    show_items(newest, ("time", "level", "kind", "message"), output)


def _show_export(made: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        show_item(made, output)
        return
    target, unit = _target(made)
    hosts = "any host" if made["any_host"] else ", ".join(made["hosts"])
    kind = "nsid" if made["protocol"] == "nvme" else "LUN"
    lines = [f"volume {made['volume']} is {target}, {kind} {unit}, for {hosts}; on the host:"]
    sys.stdout.write("\n".join(lines + made["connect"].split(" && ")) + "\n")


def _target(one: dict[str, Any]) -> tuple[str, int]:
    nvme = one["protocol"] == "nvme"
    return str(one["nqn" if nvme else "iqn"]), int(one["nsid" if nvme else "lun"])
