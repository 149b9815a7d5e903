"""Pools and their disks."""

from __future__ import annotations

import asyncio
import logging
import shutil
import uuid
from dataclasses import replace

from sds.engine import admission, core
from sds.engine.catalog import Disk, Pool, check_tier, now, page
from sds.engine.state import Item, PoolState, State
from sds.errors import Conflict, DiskRefused, InUse, InvalidValue, NameTaken, NotFound, SdsError, Unavailable
from sds.names import EXTENT_BYTES_DEFAULT, check_extent_bytes, check_name

log = logging.getLogger(__name__)

NAMED_MAX = 5  # How many names a refusal lists.
CHECK_PAGES_PER_S = 1_000  # Half a million extents a second: some percent of a processor where the map is in memory.
CHECK_PAGES_PER_S_MAX = 1_000_000
FINDINGS_SHOWN_MAX = 100
ADD_WAIT_MS = 1_000  # For a disk that just left another pool; who keeps it longer is named.


class Pools:
    """Commands about pools and disks."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def pool_create(self, name: str, extent_bytes: int | None = None) -> Item:
        """Makes a pool, which has no disk at first.

        Returns:
            item, and new: whether it was made now or was there already.

        Raises:
            InvalidValue: the name or the extent size is refused.
            NameTaken: there is one with another extent size.
        """
        check_name("name", name)
        if extent_bytes is not None:
            check_extent_bytes("extent_bytes", extent_bytes)
        async with self._state.change:
            found = self._state.pools.get(name)
            if found is None:
                pool = Pool(str(uuid.uuid4()), name, extent_bytes or EXTENT_BYTES_DEFAULT, now())
                self._state.db.put_pool(pool)
                self._state.pools[name] = PoolState(pool)
                self._state.events.add("info", "pool-created", f"pool {name} was created", f"pool/{name}")
                return {"item": await self._item(self._state.pools[name]), "new": True}
            if extent_bytes not in {None, found.pool.extent_bytes}:
                raise NameTaken(
                    f"pool {name} exists with extents of {found.pool.extent_bytes} bytes", field="extent_bytes"
                )
            return {"item": await self._item(found), "new": False}

    async def pool_list(self, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of pools, by name."""
        pools = sorted(self._state.pools.values(), key=lambda one: one.pool.name)
        shown, following = page(pools, lambda one: one.pool.name, limit, cursor)
        return {"items": [await self._item(one) for one in shown], "next": following}

    async def pool_get(self, name: str) -> Item:
        """One pool."""
        return await self._item(self._state.pool(name))

    async def pool_check(self, name: str, pages_per_s_max: int | None = None) -> Item:
        """Compares all that speaks of the same: the map, extents, owner tables, free space. It reads alone, while hosts
        go on.

        Args:
            pages_per_s_max: pages of the map a second, each 512 extents.

        Returns:
            name, consistent, what was counted, findings (the first FINDINGS_SHOWN_MAX), more (how many were left out),
            cut_off (whether there may be still more).

        Raises:
            InvalidValue: the rate is refused.
            NotFound, Conflict, Unavailable: the pool is missing, has no disk, or is not online.
        """
        rate = CHECK_PAGES_PER_S if pages_per_s_max is None else pages_per_s_max
        if not 1 <= rate <= CHECK_PAGES_PER_S_MAX:
            accepted = f"1 to {CHECK_PAGES_PER_S_MAX}"
            raise InvalidValue("pages_per_s_max", f"a check can't look at {rate} pages a second", accepted)
        pool = self._state.online_pool(name)
        report = await core.call(self._state.node.pool_check, pool.uuid, rate)
        found = report.pop("findings")
        findings = [str(one) for one in found] if isinstance(found, list) else []
        if findings:
            message = f"pool {name} does not agree with itself in {len(findings)} places, the first: {findings[0]}"
            self._state.events.add("error", "pool-inconsistent", message, f"pool/{name}")
        shown = findings[:FINDINGS_SHOWN_MAX]
        return {
            "name": name,
            "consistent": not findings,
            **report,
            "findings": shown,
            "more": len(findings) - len(shown),
        }

    async def pool_delete(self, name: str) -> None:
        """Deletes a pool that holds no volume; its disks are blank after.

        Raises:
            NotFound: there is none.
            InUse: it holds volumes, or it failed and what it holds is unknown.
        """
        async with self._state.change:
            found = self._state.pool(name)
            volumes = self._state.volumes_in(name)
            if volumes:
                some = ", ".join(one.name for one in volumes[:NAMED_MAX])
                raise InUse(f"pool {name} holds {len(volumes)} volumes: {some}", accepted="a pool without volumes")
            if found.state == "failed":
                raise InUse(f"pool {name} is not online, so what it holds is unknown: {found.message}")
            if found.state == "online":
                await core.call(self._state.node.pool_close, found.pool.uuid)
                self._state.meta.detach(found.pool.uuid)
            self._state.db.delete_pool(found.pool.uuid)
            del self._state.pools[name]
            for disk in found.pool.disks:
                await asyncio.to_thread(self._blank, disk)
            folder = self._state.config.pool(found.pool.uuid)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            self._state.events.add("info", "pool-deleted", f"pool {name} was deleted", f"pool/{name}")

    def _blank(self, disk: Disk) -> None:
        try:
            admission.blank(disk.path)
        except OSError as error:
            message = f"disk {disk.path} may still carry the label of a pool that it is not part of: {error}"
            self._state.events.add("warning", "disk-not-blanked", message, f"disk/{disk.uuid}")

    async def disk_add(
        self,
        pool: str,
        path: str,
        tier: str,
        *,
        rank: int | None = None,
        force: bool = False,
        create_bytes: int | None = None,
    ) -> Item:
        """Adds a disk to a pool.

        Args:
            force: add it although it carries something, which is lost. A disk in use is refused all the same.
            create_bytes: make it, a file of so many bytes, if it isn't there.

        Raises:
            InvalidValue: path, tier or rank are refused.
            NotFound: there is no such pool.
            DiskRefused: the disk carries something or is in use.
        """
        async with self._state.change:
            found = self._state.pool(pool)
            if found.state == "failed":
                self._state.online_pool(pool)  # It refuses, and says why.
            tier_rank = check_tier(tier, rank, {disk.tier: disk.rank for disk in found.pool.disks})
            present = self.present(path)
            if present is not None:
                holder, disk = present
                if holder is not found or disk.tier != tier:
                    raise DiskRefused(f"{path} is a disk of pool {holder.pool.name}, tier {disk.tier}", field="path")
                if disk.state != "ready":
                    raise Unavailable(
                        f"{path} could not be noted durably as a disk of pool {pool}; it may be part of it"
                    )
                return {"item": await self._disk_item(found, disk), "new": False}
            new = await self._admit(path, tier, tier_rank, force, create_bytes)
            number, disk = new
            try:
                await self._join(found, number, disk)
            except SdsError:
                await self._undo(found, number, disk)
                raise
            self._state.events.add(
                "info", "disk-added", f"disk {disk.path} was added to pool {pool}, tier {tier}", f"disk/{disk.uuid}"
            )
            return {"item": await self._disk_item(found, disk), "new": True}

    async def disk_list(self, pool: str | None = None, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of disks, by pool and uuid; of one pool if it is named."""
        pools = [self._state.pool(pool)] if pool is not None else list(self._state.pools.values())
        disks = sorted(
            ((one, disk) for one in pools for disk in one.pool.disks),
            key=lambda pair: (pair[0].pool.name, pair[1].uuid),
        )
        shown, following = page(disks, lambda pair: f"{pair[0].pool.name} {pair[1].uuid}", limit, cursor)
        return {"items": [await self._disk_item(one, disk) for one, disk in shown], "next": following}

    async def disk_get(self, disk: str) -> Item:
        """One disk, by uuid.

        Raises:
            NotFound: there is none.
        """
        for found in self._state.pools.values():
            for one in found.pool.disks:
                if one.uuid == disk:
                    return await self._disk_item(found, one)
        raise NotFound(f"there is no disk {disk!r}", field="disk")

    def present(self, path: str) -> tuple[PoolState, Disk] | None:
        """The pool of this node that has the disk at a path, and its entry."""
        for found in self._state.pools.values():
            for disk in found.pool.disks:
                if admission.same_file(disk.path, path):
                    return found, disk
        return None

    async def _admit(self, path: str, tier: str, rank: int, force: bool, create_bytes: int | None) -> tuple[int, Disk]:
        """Examines and opens a disk; the core's id of it, and its entry."""
        if path.startswith(admission.MEMORY_PREFIX):
            if create_bytes is not None:
                raise InvalidValue("create_bytes", "memory has its size in its path", "memfd:NAME:BYTES alone")
            return await self._opened(path, tier, rank)
        if create_bytes is not None:
            await asyncio.to_thread(admission.create_file, path, create_bytes)
        candidate = await asyncio.to_thread(admission.examine, path)
        number, disk = await self._opened(candidate.path, tier, rank)
        try:
            label = await core.call(self._state.node.disk_label, number)
            carries = candidate.carries
            if label is not None:
                carries = [f"the label of pool {label['pool_name']} ({label['pool_uuid']})"]
                if any(one.pool.uuid == label["pool_uuid"] for one in self._state.pools.values()):
                    raise DiskRefused(f"{path} carries {carries[0]}, a pool of this node", field="path")
            if not force:
                replace(candidate, carries=carries).require_blank()
        except SdsError:
            await core.call(self._state.node.disk_close, number)
            raise
        if not carries:
            return number, disk
        # wipefs takes the disk exclusively, so the core has to let go of it meanwhile.
        await core.call(self._state.node.disk_close, number)
        await asyncio.to_thread(admission.wipe, candidate.path)
        self._state.events.add("warning", "disk-wiped", f"{path} carried {' and '.join(carries)}: wiped by force")
        return await self._opened(candidate.path, tier, rank)

    async def _opened(self, path: str, tier: str, rank: int) -> tuple[int, Disk]:
        info = await core.call(self._state.node.disk_open, path, wait_ms=ADD_WAIT_MS)
        size = int(str(info["size_bytes"]))
        return int(str(info["id"])), Disk(str(uuid.uuid4()), path, tier, rank, size)

    async def _join(self, found: PoolState, number: int, disk: Disk) -> None:
        """Makes an open disk part of its pool. The node notes it first: a labelled disk must never be forgotten."""
        node, pool = self._state.node, found.pool
        found.pool = pool.with_disk(disk)
        self._state.db.put_pool(found.pool)
        core_disk: dict[str, object] = {"id": number, "uuid": disk.uuid, "tier": disk.tier, "rank": disk.rank}
        if found.state == "online":
            await core.call(node.pool_add_disk, pool.uuid, core_disk)
        else:
            self._state.meta.attach(pool.uuid, self._state.config.pool(pool.uuid) / "meta")
            await core.call(node.pool_create, pool.uuid, pool.name, pool.extent_bytes, [core_disk])
            found.state, found.message = "online", ""
        found.pool = found.pool.with_disk(replace(disk, state="ready"))
        self._state.db.put_pool(found.pool)

    async def _undo(self, found: PoolState, number: int, disk: Disk) -> None:
        if found.state == "empty":
            self._state.meta.detach(found.pool.uuid)
        try:
            await core.call(self._state.node.disk_close, number)
        except SdsError as error:
            # The pool uses it and could not note it durably: the next opening tells whose it is.
            log.info("disk %s was not added and its close was refused: %s", disk.path, error)
            return
        found.pool = found.pool.without_disk(disk.uuid)
        self._state.db.put_pool(found.pool)
        # It was blank, or what it carried was given up; the core may have labelled it.
        await asyncio.to_thread(self._blank, disk)

    async def trouble(self, found: PoolState) -> str:
        """What is wrong with a pool now; empty if nothing."""
        try:
            return _trouble(found, await self._status(found))
        except SdsError as error:
            return error.detail

    async def _item(self, found: PoolState) -> Item:
        pool, status = found.pool, await self._status(found)
        volumes = self._state.volumes_in(pool.name)
        provisioned = sum(self._state.volume_bytes[volume.uuid] for volume in volumes)
        capacity = _number(status, "capacity_bytes")
        return {
            "name": pool.name,
            "uuid": pool.uuid,
            "state": found.state,
            "message": _trouble(found, status),
            "extent_bytes": pool.extent_bytes,
            "capacity_bytes": capacity,
            "allocated_bytes": _number(status, "allocated_bytes"),
            "free_bytes": _number(status, "free_bytes"),
            "provisioned_bytes": provisioned,
            "overcommit": round(provisioned / capacity, 3) if capacity else None,
            "journal_disks": _number(status, "journal_disks"),
            "disks": len(pool.disks),
            "volumes": len(volumes),
            "created": pool.created,
        }

    async def _disk_item(self, found: PoolState, disk: Disk) -> Item:
        status = await self._status(found)
        disks = status.get("disks")
        known: dict[str, Item] = {one["uuid"]: one for one in disks} if isinstance(disks, list) else {}
        of_core = known.get(disk.uuid, {})
        default = "missing" if found.state == "online" else "offline"
        return {
            "uuid": disk.uuid,
            "path": disk.path,
            "pool": found.pool.name,
            "tier": disk.tier,
            "rank": disk.rank,
            "state": str(of_core.get("state", default)),
            "size_bytes": disk.size_bytes,
            "capacity_bytes": _number(of_core, "capacity_bytes"),
            "allocated_bytes": _number(of_core, "allocated_bytes"),
            "physical_block_bytes": _number(of_core, "physical_block_bytes"),
        }

    async def _status(self, found: PoolState) -> dict[str, object]:
        if found.state != "online":
            return {}
        try:
            return await core.call(self._state.node.pool_status, found.pool.uuid)
        except NotFound as error:
            raise Conflict(f"pool {found.pool.name} is being closed") from error


def _trouble(found: PoolState, status: dict[str, object]) -> str:
    troubles = [found.message] if found.message else []
    if status.get("checkpoint_failed"):
        troubles.append(
            "its metadata can't be stored in the data folder; writes will be refused when its journal is full"
        )
    if status.get("journal_failed"):
        troubles.append("its journal can't be written: nothing is made durable until sds is started again")
    disks, paths = status.get("disks"), {disk.uuid: disk.path for disk in found.pool.disks}
    failed = [one["uuid"] for one in disks if one["state"] == "failed"] if isinstance(disks, list) else []
    troubles += [f"disk {paths.get(uuid, uuid)} failed; what it holds is not certain" for uuid in failed]
    return "; ".join(troubles)


def _number(values: dict[str, object], key: str) -> int:
    return int(str(values.get(key, 0)))
