"""Thin volumes."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace

from sds.engine import core
from sds.engine.catalog import Volume, now, page
from sds.engine.state import Item, State
from sds.errors import InUse, InvalidValue, NameTaken, NotFound, SdsError, Unavailable
from sds.names import check_logical_block_bytes, check_name, check_volume_bytes

VOLUMES_MAX = 10_000  # A limit against runaway scripts; what a volume costs in memory is in bench/.


class Volumes:
    """Commands about volumes.

    Creation and deletion are noted in the volume's document before the core is asked, so that a crash between the two
    is completed at the next start, whichever way it went.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    async def volume_create(
        self, name: str, pool: str, size_bytes: int, logical_block_bytes: int | None = None
    ) -> Item:
        """Makes a thin volume; it may be larger than its pool.

        Returns:
            item, and new: whether it was made now or was there already.

        Raises:
            InvalidValue: name or sizes are refused.
            NotFound, Conflict, Unavailable: the pool is missing, has no disk, or failed.
            NameTaken: a volume of that name has other parameters.
        """
        check_name("name", name)
        check_volume_bytes("size_bytes", size_bytes)
        blocks = check_logical_block_bytes("logical_block_bytes", logical_block_bytes or 512)
        async with self._state.change:
            found = self._state.volumes.get(name)
            if found is not None:
                return await self._existing(found, pool, size_bytes, logical_block_bytes)
            home = self._state.online_pool(pool)
            if len(self._state.volumes) >= VOLUMES_MAX:
                raise InUse(f"the node has {VOLUMES_MAX} volumes, the limit")
            volume = Volume(str(uuid.uuid4()), name, pool, now())
            await self._state.put_document(pool, volume.key, volume.encode())
            try:
                await core.call(self._state.node.volume_create, home.uuid, volume.uuid, size_bytes, blocks)
            except SdsError:
                await self._state.put_document(pool, volume.key, None)
                raise
            volume = replace(volume, state="ready")
            await self._state.put_document(pool, volume.key, volume.encode())
            self._state.volumes[name] = volume
            self._state.volume_bytes[volume.uuid] = size_bytes
            self._state.events.add("info", "volume-created", f"volume {name} was created", f"volume/{name}")
            return {"item": await self._item(volume), "new": True}

    async def _existing(self, found: Volume, pool: str, size_bytes: int, logical_block_bytes: int | None) -> Item:
        item = await self._item(found)
        asked = {"pool": pool, "size_bytes": size_bytes, "logical_block_bytes": logical_block_bytes}
        for field, value in asked.items():
            if value is not None and item[field] != value:
                raise NameTaken(f"volume {found.name} exists with {field} {item[field]}", field=field)
        return {"item": item, "new": False}

    async def volume_list(self, pool: str | None = None, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of volumes, by name; of one pool if it is named."""
        if pool is not None:
            self._state.pool(pool)
        volumes = [one for one in self._state.volumes.values() if pool in {None, one.pool}]
        shown, following = page(sorted(volumes, key=lambda one: one.name), lambda one: one.name, limit, cursor)
        items = []
        for one in shown:
            with contextlib.suppress(NotFound):  # It was deleted since the page was cut.
                items.append(await self._item(one))
        return {"items": items, "next": following}

    async def volume_get(self, name: str) -> Item:
        """One volume."""
        return await self._item(self._state.volume(name))

    async def volume_resize(self, name: str, size_bytes: int) -> Item:
        """Grows a volume; its hosts are told.

        Raises:
            InvalidValue: the size is refused; a smaller one is, in this release.
        """
        check_volume_bytes("size_bytes", size_bytes)
        async with self._state.change:
            volume = self._state.volume(name)
            pool = self._state.online_pool(volume.pool)
            has = self._state.volume_bytes[volume.uuid]
            if size_bytes < has:
                raise InvalidValue(
                    "size_bytes",
                    f"volume {name} has {has} bytes, and a volume can't shrink in this release",
                    f"{has} or more",
                )
            if size_bytes > has:
                await core.call(self._state.node.volume_resize, pool.uuid, volume.uuid, size_bytes)
                self._state.volume_bytes[volume.uuid] = size_bytes
                message = f"volume {name} grew from {has} to {size_bytes} bytes"
                self._state.events.add("info", "volume-resized", message, f"volume/{name}")
            return await self._item(volume)

    async def volume_delete(self, name: str) -> None:
        """Deletes a volume and what it holds.

        Raises:
            NotFound: there is none.
            InUse: it is exported.
        """
        async with self._state.change:
            volume = self._state.volume(name)
            exports = self._state.exports_of(name)
            if exports:
                some = ", ".join(export.id for export in exports)
                raise InUse(f"volume {name} is exported: {some}", accepted="a volume without exports")
            pool = self._state.online_pool(volume.pool)
            await self._state.put_document(volume.pool, volume.key, replace(volume, state="deleting").encode())
            await core.call(self._state.node.volume_delete, pool.uuid, volume.uuid)
            await self._state.put_document(volume.pool, volume.key, None)
            del self._state.volumes[name]
            del self._state.volume_bytes[volume.uuid]
            self._state.events.add("info", "volume-deleted", f"volume {name} was deleted", f"volume/{name}")

    async def _item(self, volume: Volume) -> Item:
        found = self._state.pool(volume.pool)
        if found.state != "online":
            raise Unavailable(f"pool {volume.pool} is not online: {found.message}", field="pool")
        status = await core.call(self._state.node.volume_status, found.pool.uuid, volume.uuid)
        return {
            "name": volume.name,
            "uuid": volume.uuid,
            "pool": volume.pool,
            "size_bytes": int(str(status["size_bytes"])),
            "allocated_bytes": int(str(status["allocated_bytes"])),
            "logical_block_bytes": int(str(status["logical_block_bytes"])),
            "exports": sorted(export.id for export in self._state.exports_of(volume.name)),
            "created": volume.created,
        }
