"""Opening pools at the engine's start, and completing what a crash left half done."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

from sds.engine import admission, core
from sds.engine.catalog import Disk, Export, Host, Terms, Volume, name_of_host
from sds.engine.state import PoolState, State
from sds.errors import NotFound, SdsError

log = logging.getLogger(__name__)

# A process that was killed has its disks until its last request has ended. Other pools wait meanwhile, and the retries
# of a failed pool come anyhow.
PREDECESSOR_WAIT_MS = 2_000


async def open_pool(state: State, found: PoolState, wait_ms: int = PREDECESSOR_WAIT_MS) -> None:
    """Opens a pool and takes up its documents; whatever goes wrong makes it `failed` and leaves the others alone.

    Args:
        wait_ms: how long a disk that somebody else has is waited for.
    """
    pool = found.pool
    opened, troubles, bad_slots = await _open_disks(state, found, wait_ms)
    if not found.pool.disks:
        found.state, found.message = "empty", ""
        return
    try:
        troubles += await take_up(state, found, opened)
    except SdsError as error:
        await let_go(state, found, opened)
        why = "; ".join([*troubles, error.detail])
        if found.message != why:
            state.events.add("error", "pool-failed", f"pool {pool.name} can't be opened: {why}", f"pool/{pool.name}")
        found.state, found.message = "failed", why
        return
    found.message = "; ".join(troubles)
    for disk, message in bad_slots:
        state.events.add("warning", "label-slot-bad", message, f"disk/{disk.uuid}")


async def take_up(state: State, found: PoolState, opened: dict[int, Disk], rename: str | None = None) -> list[str]:
    """Opens a pool from its open disks, by the core's ids, and takes up its documents: then it is online.

    Args:
        rename: what its labels are to call it from now on.

    Returns:
        what is wrong with it all the same.

    Raises:
        SdsError: it can't be opened; `let_go` is to follow.
    """
    pool = found.pool
    why = state.meta.attach(pool.uuid, state.config.pool(pool.uuid) / "meta")
    if why is not None:
        message = f"RocksDB of pool {pool.name} was set aside and is made again from the disks: {why}"
        state.events.add("warning", "metadata-set-aside", message, f"pool/{pool.name}")
    recovered = await core.call(state.node.pool_open, pool.uuid, list(opened), rename)
    troubles = await _settle_disks(state, found, opened, recovered["unused"])
    await _load_documents(state, found)
    found.state = "online"
    told = ", ".join(f"{key} {value}" for key, value in recovered.items() if isinstance(value, bool | int | float))
    state.events.add("info", "pool-opened", f"pool {pool.name} is online ({told})", f"pool/{pool.name}")
    return troubles


async def let_go(state: State, found: PoolState, opened: Iterable[int]) -> None:
    """Closes what a failed `take_up` left open: the pool, its disks, its RocksDB."""
    pool = found.pool
    try:
        await core.call(state.node.pool_close, pool.uuid)
    except SdsError as error:
        log.info("pool %s: %s", pool.name, error)
    for disk in opened:
        try:
            await core.call(state.node.disk_close, disk)
        except SdsError as error:
            # The core may have closed it itself, together with the pool.
            log.info("disk %d of pool %s: %s", disk, pool.name, error)
    state.meta.detach(pool.uuid)


async def _open_disks(
    state: State, found: PoolState, wait_ms: int
) -> tuple[dict[int, Disk], list[str], list[tuple[Disk, str]]]:
    """The disks that carry the pool's label, by the core's ids; what is wrong with the others; and which slots of
    labels are bad on those that can be used all the same.
    """
    opened: dict[int, Disk] = {}
    troubles: list[str] = []
    bad_slots: list[tuple[Disk, str]] = []
    for disk in found.pool.disks:
        number = -1
        try:
            info = await core.call(state.node.disk_open, disk.path, wait_ms=wait_ms)
            number = int(str(info["id"]))
            label = await core.call(state.node.disk_label, number)
        except SdsError as error:
            # The core names the disk by its path, unless it was open already.
            troubles.append(error.detail if disk.path in error.detail else f"disk {disk.path}: {error.detail}")
            if number >= 0:
                await core.call(state.node.disk_close, number)
            wait_ms = 0  # One wait is enough for a pool that will not open.
            continue
        trouble = _check_label(found, disk, label) or _check_size(disk, int(str(info["size_bytes"])))
        if trouble is None:
            opened[number] = disk
            bad_slots += [(disk, message) for message in _bad_slots(disk, label)]
            continue
        await core.call(state.node.disk_close, number)
        if disk.state == "adding" and label is None:
            # The engine died between noting the disk and labelling it: it never was part of the pool.
            found.pool = found.pool.without_disk(disk.uuid)
            state.db.put_pool(found.pool)
        else:
            troubles.append(trouble)
    return opened, troubles, bad_slots


def _check_label(found: PoolState, disk: Disk, label: dict[str, object] | None) -> str | None:
    if label is None:
        return f"disk {disk.path} carries no label of a pool"
    if label["pool_uuid"] != found.pool.uuid:
        return f"disk {disk.path} belongs to pool {label['pool_name']} ({label['pool_uuid']})"
    return None


def _bad_slots(disk: Disk, label: dict[str, object] | None) -> list[str]:
    errors = label["slot_errors"] if label else None
    bad = errors.items() if isinstance(errors, dict) else ()
    return [f"label slot {slot} of {disk.path} is bad ({why}); the other one was used" for slot, why in bad]


def _check_size(disk: Disk, size_bytes: int) -> str | None:
    if size_bytes >= disk.size_bytes:
        return None
    return f"disk {disk.path} has {size_bytes} bytes, of {disk.size_bytes} that it had when it was added"


async def _settle_disks(state: State, found: PoolState, opened: dict[int, Disk], unused: object) -> list[str]:
    """Completes what a crash left of the joining of disks; what is wrong with those that the pool does not know.

    The core labels a disk before the pool's catalog has it. A label alone is void, and blanked, so that the disk can
    be added again.
    """
    void = set(unused) if isinstance(unused, list) else set()
    troubles: list[str] = []
    for number, disk in opened.items():
        if disk.state == "adding":
            known = number not in void
            found.pool = (
                found.pool.with_disk(replace(disk, state="ready")) if known else found.pool.without_disk(disk.uuid)
            )
            state.db.put_pool(found.pool)
            if not known:
                await asyncio.to_thread(admission.blank, disk.path)
        elif number in void:
            troubles.append(f"disk {disk.path} carries the label of the pool, which does not know it")
    return troubles


async def _load_documents(state: State, found: PoolState) -> None:
    """Takes up a pool's volumes, exports and the hosts that they name."""
    pool = found.pool
    documents = await core.call(state.node.documents, pool.uuid)
    by_uuid: dict[str, Volume] = {}
    for key, data in sorted(documents.items()):
        if key.startswith("volume/"):
            volume = await _settle_volume(state, Volume.decode(data, pool.name), pool.uuid)
            if volume is not None:
                by_uuid[volume.uuid] = volume
    hosts = await _take_up_hosts(state, found, documents)
    for key, data in sorted(documents.items()):
        if not key.startswith("export/"):
            continue
        owner = by_uuid.get(key.split("/")[1])
        if owner is None:
            await core.call(state.node.document_put, pool.uuid, key, None)
            continue
        export = Export.decode(data, pool.name)
        names = tuple(sorted({hosts.get(name, name) for name in export.hosts}))
        if names != export.hosts:
            await core.call(state.node.document_put, pool.uuid, key, replace(export, hosts=names).encode())
        export = replace(export, volume=owner.name, hosts=names)
        state.exports[export.id] = export


async def _take_up_hosts(state: State, found: PoolState, documents: Mapping[str, bytes]) -> dict[str, str]:
    """What the node calls the hosts that a pool's exports name, by the names that the pool gives them.

    A pool that comes from elsewhere may name a host as the node names another one: that one must not see its exports.
    """
    pool, names = found.pool, dict[str, str]()
    exports = [Export.decode(data, pool.name) for key, data in documents.items() if key.startswith("export/")]
    for wanted in sorted({name for export in exports for name in export.hosts}):
        data = documents.get(f"host/{wanted}")
        if data is None:
            continue
        host = Host.decode(data)
        name = name_of_host(list(state.hosts.values()), host, pool.uuid)
        names[host.name] = name
        if name not in state.hosts:
            state.hosts[name] = replace(host, name=name)
            state.db.put_host(state.hosts[name])
        if name != host.name:
            ours = state.hosts[name]
            await core.call(state.node.document_put, pool.uuid, ours.key, ours.encode())
            await core.call(state.node.document_put, pool.uuid, host.key, None)
            message = f"host {host.name} of pool {pool.name} is called {name} here: the name was taken"
            state.events.add("warning", "host-renamed", message, f"host/{name}")
    return names


async def _settle_volume(state: State, volume: Volume, pool: str) -> Volume | None:
    """Completes what a crash left half done; None if the volume is not there any more."""
    if volume.state == "deleting":
        with contextlib.suppress(NotFound):
            await core.call(state.node.volume_delete, pool, volume.uuid)
    else:
        try:
            status = await core.call(state.node.volume_status, pool, volume.uuid)
        except NotFound:
            if volume.state == "ready":
                message = f"volume {volume.name} is in the catalog and not in its pool"
                state.events.add("error", "volume-lost", message, f"volume/{volume.name}")
                return None
        else:
            return await _take_up(state, volume, pool, int(str(status["size_bytes"])))
    await core.call(state.node.document_put, pool, volume.key, None)
    return None


async def _take_up(state: State, volume: Volume, pool: str, size_bytes: int) -> Volume:
    name = volume.name
    if name in state.volumes and state.volumes[name].uuid != volume.uuid:
        # Names are unique on a node; this pool comes from elsewhere, or was away while the name was given again.
        name = f"{name[:54]}-{volume.uuid[:8]}"
        message = f"volume {volume.name} of pool {volume.pool} is called {name}: the name was taken"
        state.events.add("warning", "volume-renamed", message, f"volume/{name}")
    ready = replace(volume, name=name, state="ready")
    if ready != volume:
        await core.call(state.node.document_put, pool, ready.key, ready.encode())
    if ready.terms != Terms():
        # Before its exports are there: a read-only volume takes no write in between.
        await core.call(state.node.volume_terms_set, pool, ready.uuid, ready.terms.for_core())
    state.volumes[name] = ready
    state.volume_bytes[ready.uuid] = size_bytes
    return ready
