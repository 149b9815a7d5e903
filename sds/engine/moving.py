"""Pools that go from one node to another with their disks.

Volumes, exports and the hosts that these name are documents in the pool's catalog, so they come along. What a node
has beside them (the pool's entry, its RocksDB, its carry-over ring) is left behind: RocksDB is built anew from the
disks, and a ring is void once another node has opened the pool.
"""

from __future__ import annotations

import asyncio
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sds.engine import admission, core
from sds.engine.catalog import Disk, Pool, now
from sds.engine.opening import let_go, take_up
from sds.engine.pools import ADD_WAIT_MS, NAMED_MAX, Pools
from sds.engine.state import Item, PoolState, State
from sds.errors import Conflict, DiskRefused, InUse, InvalidValue, NameTaken, SdsError, Unavailable
from sds.names import check_name

DISKS_MAX = 1_024


@dataclass(frozen=True)
class Labelled:
    """An open disk with a pool's label.

    Attributes:
        number: the core's id of it.
        opener: who opened the pool last, in the label's words.
        openings: how often the pool was opened when the label was written.
    """

    number: int
    disk: Disk
    pool_uuid: str
    pool_name: str
    extent_bytes: int
    clean: bool
    opener: str
    openings: int


class Moving:
    """Import and export of pools."""

    def __init__(self, state: State, pools: Pools) -> None:
        self._state = state
        self._pools = pools

    async def pool_import(self, disks: list[str], name: str | None = None, *, force: bool = False) -> Item:
        """Takes over a pool from its disks, with its volumes, its exports and their hosts.

        Args:
            disks: the paths of all its disks.
            name: what the pool is called from now on; as its labels say if not given.
            force: take it although it was not closed in order. What hosts wrote since their last flush may be lost.

        Returns:
            item, and new: whether it was taken over now or was this node's already.

        Raises:
            InvalidValue: a path or the name is refused.
            DiskRefused: a disk carries no label, another pool's, or is missing; or the pool was not closed in order.
            NameTaken: the node has a pool of that name.
        """
        if name is not None:
            check_name("name", name)
        if not 1 <= len(disks) <= DISKS_MAX:
            raise InvalidValue("disks", f"{len(disks)} disks are named", f"1 to {DISKS_MAX}")
        async with self._state.change:
            holder = self._holder(disks)
            if holder is not None:
                if name not in {None, holder.pool.name}:
                    raise NameTaken(f"the disks are pool {holder.pool.name} of this node", field="name")
                return {"item": await self._pools.pool_get(holder.pool.name), "new": False}
            found: list[Labelled] = []
            try:
                for path in dict.fromkeys(disks):
                    found += [await self._open(path)]
                pool = self._agreed(found, name, force=force)
            except SdsError:
                for one in found:
                    await core.call(self._state.node.disk_close, one.number)
                raise
            rename = None if pool.name == found[0].pool_name else pool.name
            await self._take_over(PoolState(pool, "failed", "it is being imported"), found, rename)
            opener = max(found, key=lambda one: one.openings).opener
            message = f"pool {pool.name} was taken over from its {len(found)} disks; {opener} had it"
            self._state.events.add("info", "pool-taken-over", message, f"pool/{pool.name}")
            return {"item": await self._pools.pool_get(pool.name), "new": True}

    def _holder(self, paths: Iterable[str]) -> PoolState | None:
        """The pool of this node that has all these disks; None if none of them is this node's."""
        holders = [self._pools.present(path) for path in paths]
        known = [holder for holder in holders if holder is not None]
        if not known:
            return None
        pool = known[0][0]
        if len(known) < len(holders) or any(other is not pool for other, _ in known):
            raise DiskRefused(f"{known[0][1].path} is a disk of pool {pool.pool.name} of this node", field="disks")
        return pool

    async def _open(self, path: str) -> Labelled:
        if path.startswith(admission.MEMORY_PREFIX):
            raise InvalidValue("disks", f"{path} is memory and holds no pool", admission.PATH_ACCEPTED)
        candidate = await asyncio.to_thread(admission.examine, path)
        info = await core.call(self._state.node.disk_open, candidate.path, wait_ms=ADD_WAIT_MS)
        number = int(str(info["id"]))
        label = await core.call(self._state.node.disk_label, number)
        if label is None:
            await core.call(self._state.node.disk_close, number)
            raise DiskRefused(f"{path} carries no label of a pool", field="disks")
        size, rank = int(str(info["size_bytes"])), int(str(label["rank"]))
        return Labelled(
            number,
            Disk(str(label["disk_uuid"]), candidate.path, str(label["tier"]), rank, size, "ready"),
            str(label["pool_uuid"]),
            str(label["pool_name"]),
            int(str(label["extent_bytes"])),
            bool(label["clean"]),
            str(label["opener"]),
            int(str(label["openings"])),
        )

    def _agreed(self, found: Sequence[Labelled], name: str | None, *, force: bool) -> Pool:
        """The pool that all labels speak of, if it may be taken over."""
        first = found[0]
        for one in found[1:]:
            if one.pool_uuid != first.pool_uuid:
                both = f"{first.disk.path} is of pool {first.pool_name} ({first.pool_uuid})"
                raise DiskRefused(f"{both}, {one.disk.path} of {one.pool_name} ({one.pool_uuid})", field="disks")
        for pool in self._state.pools.values():
            if pool.pool.uuid == first.pool_uuid:
                raise Conflict(f"the pool is {pool.pool.name} of this node, with other disks or paths", field="disks")
        called = name or first.pool_name
        check_name("name", called)
        if called in self._state.pools:
            raise NameTaken(
                f"there is a pool {called} already", field="name", accepted="another name for it (--name NAME)"
            )
        last = max(found, key=lambda one: one.openings)
        if not force and not all(one.clean for one in found):
            raise DiskRefused(
                f"pool {first.pool_name} was not closed in order: {last.opener} has it or had it last; "
                "what hosts wrote there and did not flush would be lost",
                field="disks",
                accepted=f"after: sds pool export {first.pool_name}, there; or force",
            )
        return Pool(first.pool_uuid, called, first.extent_bytes, now(), tuple(one.disk for one in found))

    async def _take_over(self, pool: PoolState, found: Sequence[Labelled], rename: str | None) -> None:
        # Noted first: if the engine dies on the way, its next start goes on with it.
        folder = self._state.config.pool(pool.pool.uuid)
        was_there = folder.exists()  # What an earlier life of this data folder left may be needed another time.
        self._state.db.put_pool(pool.pool)
        self._state.pools[pool.pool.name] = pool
        opened = {one.number: one.disk for one in found}
        try:
            pool.message = "; ".join(await take_up(self._state, pool, opened, rename))
            await self._state.publish()
        except SdsError:
            await let_go(self._state, pool, opened)
            self._forget(pool)
            if not was_there:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise

    async def pool_export(self, name: str, *, force: bool = False) -> Item:
        """Closes a pool in order and forgets it on this node; its disks keep all they hold.

        Args:
            force: disconnect hosts; forget a pool that failed without closing it.

        Returns:
            name, uuid, closed (whether the labels say "closed in order"), disks (paths), command (what to type on the
            node that is to have it).

        Raises:
            NotFound: there is none.
            InUse: hosts are connected, or it failed.
            Conflict: it has no disk, or disks that go with the engine.
        """
        async with self._state.change:
            found = self._state.pool(name)
            paths = [disk.path for disk in found.pool.disks]
            if not paths:
                raise Conflict(f"pool {name} has no disk, so there is nothing to export")
            if any(path.startswith(admission.MEMORY_PREFIX) for path in paths):
                raise Conflict(f"pool {name} lies in memory, which goes with the engine")
            closed = found.state == "online"
            if closed:
                await self._leave(found, force=force)
            elif not force:
                raise InUse(
                    f"pool {name} is not online and can't be closed in order: {found.message}",
                    accepted="force, which forgets it here and leaves its disks as they are",
                )
            self._forget(found)
            folder = self._state.config.pool(found.pool.uuid)
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            message = f"pool {name} was exported: {'closed in order' if closed else 'forgotten as it was'}"
            self._state.events.add("info", "pool-exported", message, f"pool/{name}")
            command = shlex.join(["sds", "pool", "import", *paths, *([] if closed else ["--force"])])
            return {"name": name, "uuid": found.pool.uuid, "closed": closed, "disks": paths, "command": command}

    async def _leave(self, found: PoolState, *, force: bool) -> None:
        name = found.pool.name
        targets = {export.target.lower(): export.id for export in self._state.exports.values() if export.pool == name}
        connected = {
            f"{session['host']} to {targets[target]}"
            for session in await core.call(self._state.node.sessions)
            if (target := str(session["name"]).lower()) in targets
        }
        if connected and not force:
            some = ", ".join(sorted(connected)[:NAMED_MAX])
            raise InUse(f"hosts are connected: {some}", accepted="when they have disconnected; or force")
        # Out of the export table first, so that no host is let in while the pool is being closed.
        found.state, found.message = "failed", "it is being exported"
        self._drop_volumes(found)
        await self._state.publish()
        try:
            await core.call(self._state.node.pool_close, found.pool.uuid)
        except SdsError as error:
            # Closed all the same; it is opened again, which replays what was not stored.
            found.message = f"it could not be closed in order: {error.detail}"
            self._state.meta.detach(found.pool.uuid)
            raise Unavailable(f"pool {name} could not be closed in order: {error.detail}") from error
        self._state.meta.detach(found.pool.uuid)

    def _forget(self, found: PoolState) -> None:
        """Takes the pool and all that is in it out of what this node knows."""
        self._state.db.delete_pool(found.pool.uuid)
        self._drop_volumes(found)
        del self._state.pools[found.pool.name]

    def _drop_volumes(self, found: PoolState) -> None:
        for volume in self._state.volumes_in(found.pool.name):
            for export in self._state.exports_of(volume.name):
                del self._state.exports[export.id]
            del self._state.volumes[volume.name]
            del self._state.volume_bytes[volume.uuid]
