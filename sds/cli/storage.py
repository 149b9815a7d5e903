"""`sds pool`, `sds disk` and `sds volume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sds.cli.client import REFUSED, fail, items, request
from sds.cli.output import Format, Output, Yes, confirm, show_done, show_item, show_items
from sds.errors import InvalidValue
from sds.names import format_size, parse_size

MEMORY_PREFIX = "memfd:"
IMPORT_LIMIT_S = 660.0  # A little more than the gateway's own.
CHECK_LIMIT_S = 3660.0

pool = typer.Typer(no_args_is_help=True, help="Disks with a common extent size.")
scrub = typer.Typer(no_args_is_help=True, help="A pool's metadata and all that is sealed in it, read and verified.")
pool.add_typer(scrub, name="scrub")
disk = typer.Typer(no_args_is_help=True, help="Block devices and files that pools are made of.")
volume = typer.Typer(no_args_is_help=True, help="Thin volumes.")


def _size(option: str, text: str | None) -> int | None:
    """Bytes from what was typed, as 20T."""
    try:
        return None if text is None else parse_size(option, text)
    except InvalidValue as error:
        fail(error.detail, hints={"field": error.field, "accepted": error.accepted})


@pool.command("create")
def pool_create(
    name: str,
    extent_size: Annotated[str | None, typer.Option(help="256K to 16M, a power of two; 1M if not given.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a pool; it has no disk at first."""
    show_item(
        request("POST", "/v1/pools", json={"name": name, "extent_bytes": _size("extent-size", extent_size)}), output
    )


@pool.command("list")
def pool_list(output: Output = Format.TABLE) -> None:
    """List pools."""
    columns = ("name", "state", "capacity_bytes", "allocated_bytes", "provisioned_bytes", "overcommit", "disks")
    show_items(list(items("/v1/pools")), (*columns, "volumes"), output)


@pool.command("show")
def pool_show(name: str, output: Output = Format.TABLE) -> None:
    """Show a pool: capacity, what is allocated, over-commit."""
    show_item(request("GET", f"/v1/pools/{name}"), output)


@pool.command("import")
def pool_import(
    disks: Annotated[list[str], typer.Argument(metavar="DISK...", help="All disks of the pool.")],
    *,
    name: Annotated[str | None, typer.Option(help="What it is called from now on; as before if not given.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Take it although it was not closed in order.")] = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Take over a pool from its disks: volumes, exports and their hosts come along."""
    if force:
        confirm("Lose what hosts wrote and did not flush, if the pool was not closed in order", yes=yes)
    body = {"disks": [str(Path(disk).absolute()) for disk in disks], "name": name, "force": force}
    show_item(request("POST", "/v1/pools/import", limit_s=IMPORT_LIMIT_S, json=body), output)


@pool.command("export")
def pool_export(
    name: str,
    *,
    force: Annotated[bool, typer.Option("--force", help="Disconnect hosts; forget a pool that failed.")] = False,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Close a pool in order and forget it here; its disks keep what they hold, for `sds pool import` elsewhere."""
    confirm(f"Take pool {name} and its volumes away from this node", yes=yes)
    done = request("POST", f"/v1/pools/{name}/export", limit_s=IMPORT_LIMIT_S, json={"force": force})
    if output is Format.JSON:
        show_item(done, output)
    else:
        how = "closed in order" if done["closed"] else "forgotten as it was"
        show_done(f"pool {name} is {how}; on the node that is to have it:\n{done['command']}", output)


@pool.command("check")
def pool_check(
    name: str,
    rate: Annotated[int | None, typer.Option(help="Pages of the map a second, 512 extents each.  [1000]")] = None,
    output: Output = Format.TABLE,
) -> None:
    """See whether map, extents, owner tables and free space agree, while hosts go on. Status 1 if they do not."""
    report = request("POST", f"/v1/pools/{name}/check", limit_s=CHECK_LIMIT_S, json={"pages_per_s_max": rate})
    findings = report["findings"]
    show_item(report if output is Format.JSON else report | {"findings": len(findings)}, output)
    if output is Format.TABLE and findings:
        show_done("\n".join(findings), output)
    if not report["consistent"]:
        raise typer.Exit(REFUSED)


@pool.command("delete")
def pool_delete(name: str, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Delete a pool that holds no volume; its disks are blank after."""
    confirm(f"Delete pool {name} and blank its disks", yes=yes)
    request("DELETE", f"/v1/pools/{name}")
    show_done(f"pool {name} was deleted", output)


@scrub.command("start")
def scrub_start(
    name: Annotated[str, typer.Argument(metavar="POOL")],
    rate: Annotated[str | None, typer.Option(help="What it may read in a second, as 50M; 100M if not given.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Begin to read and verify a pool's metadata and all that is sealed in it; damaged metadata is mended."""
    body = {"bytes_per_second_max": _size("rate", rate)}
    show_item(request("POST", f"/v1/pools/{name}/scrub", json=body), output)


@scrub.command("show")
def scrub_show(name: Annotated[str, typer.Argument(metavar="POOL")], output: Output = Format.TABLE) -> None:
    """Show a pool's last scrub, or the one that is running."""
    show_item(request("GET", f"/v1/pools/{name}/scrub"), output)


@scrub.command("stop")
def scrub_stop(name: Annotated[str, typer.Argument(metavar="POOL")], output: Output = Format.TABLE) -> None:
    """End a scrub that is running."""
    request("DELETE", f"/v1/pools/{name}/scrub")
    show_done(f"the scrub of pool {name} ends", output)


@scrub.command("schedule")
def scrub_schedule(
    name: Annotated[str, typer.Argument(metavar="POOL")],
    *,
    hours: Annotated[int, typer.Option(help="Between the beginnings of two scrubs; 0: never.")],
    rate: Annotated[str | None, typer.Option(help="What it may read in a second, as 50M; 100M if not given.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Scrub a pool by itself at an interval."""
    body = {"interval_hours": hours, "bytes_per_second_max": _size("rate", rate)}
    show_item(request("PUT", f"/v1/pools/{name}/scrub", json=body), output)


@disk.command("add")
def disk_add(
    pool_name: Annotated[str, typer.Argument(metavar="POOL")],
    path: Annotated[str, typer.Argument(help="A block device or a file on the machine that runs sds.")],
    *,
    tier: Annotated[str, typer.Option(help="flash, hdd, or a name of your own.")],
    rank: Annotated[int | None, typer.Option(help="Of a tier of your own: 0 is the fastest, 100 the slowest.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Add it whatever it carries, which is lost.")] = False,
    create: Annotated[str | None, typer.Option(help="Make a file of this size if there is none, as 10G.")] = None,
    yes: Yes = False,
    output: Output = Format.TABLE,
) -> None:
    """Add a disk to a pool. One that carries something is refused unless --force; one in use always."""
    if force:
        confirm(f"Lose whatever {path} holds", yes=yes)
    where = path if path.startswith(MEMORY_PREFIX) else str(Path(path).absolute())
    body = {"pool": pool_name, "path": where, "tier": tier, "rank": rank, "force": force}
    show_item(request("POST", "/v1/disks", json=body | {"create_bytes": _size("create", create)}), output)


@disk.command("list")
def disk_list(
    pool_name: Annotated[str | None, typer.Option("--pool", help="Of this pool alone.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List disks."""
    columns = ("pool", "tier", "path", "state", "size_bytes", "capacity_bytes", "allocated_bytes", "uuid")
    show_items(list(items("/v1/disks", pool=pool_name)), columns, output)


@volume.command("create")
def volume_create(
    name: str,
    pool_name: Annotated[str, typer.Option("--pool")],
    size: Annotated[str, typer.Option(help="As 20T; it may be larger than the pool.")],
    block_size: Annotated[int | None, typer.Option(help="Logical block, 512 or 4096 bytes; 512 if not given.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a thin volume."""
    body = {"name": name, "pool": pool_name, "size_bytes": _size("size", size), "logical_block_bytes": block_size}
    show_item(request("POST", "/v1/volumes", json=body), output)


@volume.command("list")
def volume_list(
    pool_name: Annotated[str | None, typer.Option("--pool", help="Of this pool alone.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY[=VALUE]", help="With this label alone.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List volumes."""
    columns = ("name", "pool", "size_bytes", "allocated_bytes", "exports", "labels")
    show_items(list(items("/v1/volumes", pool=pool_name, label=label)), columns, output)


@volume.command("show")
def volume_show(name: str, output: Output = Format.TABLE) -> None:
    """Show a volume."""
    show_item(request("GET", f"/v1/volumes/{name}"), output)


@volume.command("resize")
def volume_resize(
    name: str,
    size: Annotated[str, typer.Argument(help="The new size, as 30T.")] = "",
    size_option: Annotated[str, typer.Option("--size", help="The new size, as 30T.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Grow a volume; its hosts are told."""
    if bool(size) == bool(size_option):
        fail("give the new size once", hints={"field": "size", "accepted": "an argument or --size"})
    new = _size("size", size or size_option)
    show_item(request("PATCH", f"/v1/volumes/{name}", json={"size_bytes": new}), output)


@volume.command("set")
def volume_set(
    name: str,
    *,
    new_name: Annotated[str | None, typer.Option("--name", help="What it is called from now on.")] = None,
    label: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Add or replace a label.")] = [],  # noqa: B006
    unlabel: Annotated[list[str], typer.Option(metavar="KEY", help="Remove a label.")] = [],  # noqa: B006
    read_only: Annotated[bool | None, typer.Option(help="Refuse writes.")] = None,
    write_through: Annotated[bool | None, typer.Option(help="Each write is durable before its answer.")] = None,
    detect_zeroes: Annotated[bool | None, typer.Option(help="Writes of zeros alone take no space.")] = None,
    iops_max: Annotated[str | None, typer.Option(help="Requests a second, 100 at least; none: no limit.")] = None,
    iops_burst: Annotated[
        str | None, typer.Option(help="Requests saved up while idle; none: a second's worth.")
    ] = None,
    bandwidth_max: Annotated[str | None, typer.Option(help="As 200M a second, 10M at least; none: no limit.")] = None,
    bandwidth_burst: Annotated[
        str | None, typer.Option(help="As 1G saved up while idle; none: a second's worth.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Change a volume while its hosts go on; what is not named stays. Its exports keep the names that hosts know."""
    given: dict[str, object] = {
        "new_name": new_name,
        "read_only": read_only,
        "write_through": write_through,
        "detect_zeroes": detect_zeroes,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    limits = {
        "iops_max": ("iops-max", iops_max),
        "iops_burst": ("iops-burst", iops_burst),
        "bytes_per_second_max": ("bandwidth-max", bandwidth_max),
        "burst_bytes": ("bandwidth-burst", bandwidth_burst),
    }
    for field, (option, text) in limits.items():
        if text is not None:
            changes[field] = None if text == "none" else _size(option, text)
    if label or unlabel:
        labels = dict(request("GET", f"/v1/volumes/{name}")["labels"])
        for key in unlabel:
            labels.pop(key, None)
        for text in label:
            key, equals, value = text.partition("=")
            if not equals:
                fail(f"{text!r} is no label", hints={"field": "label", "accepted": "KEY=VALUE"})
            labels[key] = value
        changes["labels"] = labels
    if not changes:
        fail("nothing is to be changed", hints={"accepted": "an option that says what (sds volume set --help)"})
    show_item(request("PATCH", f"/v1/volumes/{name}", json=changes), output)


@volume.command("delete")
def volume_delete(name: str, yes: Yes = False, output: Output = Format.TABLE) -> None:
    """Delete a volume and everything on it."""
    if not yes:
        size = format_size(request("GET", f"/v1/volumes/{name}")["allocated_bytes"])
        confirm(f"Delete volume {name} with {size} of data", yes=yes)
    request("DELETE", f"/v1/volumes/{name}")
    show_done(f"volume {name} was deleted", output)
