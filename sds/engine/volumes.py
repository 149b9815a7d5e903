"""Thin volumes."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from sds.engine import core
from sds.engine.catalog import Terms, Volume, now, page
from sds.engine.state import Item, State
from sds.errors import InUse, InvalidValue, NameTaken, NotFound, SdsError, Unavailable
from sds.names import (
    BURST_SECONDS_MAX,
    BYTES_PER_SECOND_MAX,
    BYTES_PER_SECOND_MIN,
    IOPS_MAX,
    IOPS_MIN,
    check_labels,
    check_logical_block_bytes,
    check_name,
    check_range,
    check_volume_bytes,
)

VOLUMES_MAX = 10_000  # A limit against runaway scripts; what a volume costs in memory is in bench/.
TERMS_FIELDS = frozenset(field.name for field in fields(Terms))


def check_terms(terms: Terms) -> Terms:
    """Terms that a volume can have.

    Raises:
        InvalidValue: a limit is out of range, or there is a burst without its limit.
    """
    limits = (
        ("iops_max", terms.iops_max, IOPS_MIN, IOPS_MAX, "iops_burst", terms.iops_burst),
        (
            "bytes_per_second_max",
            terms.bytes_per_second_max,
            BYTES_PER_SECOND_MIN,
            BYTES_PER_SECOND_MAX,
            "burst_bytes",
            terms.burst_bytes,
        ),
    )
    for name, limit, least, most, burst_name, burst in limits:
        if limit is not None:
            check_range(name, limit, least, most)
        if burst is not None and limit is None:
            raise InvalidValue(burst_name, f"there is no {name} to which {burst_name} belongs", f"{name} with it")
        if burst is not None:
            check_range(burst_name, burst, 0, BURST_SECONDS_MAX * (limit or 0))
    return terms


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

    async def volume_list(
        self, pool: str | None = None, label: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> Item:
        """A page of volumes, by name; of one pool if it is named, and with that label (KEY or KEY=VALUE)."""
        if pool is not None:
            self._state.pool(pool)
        key, equals, value = (label or "").partition("=")
        volumes = [
            one
            for one in self._state.volumes.values()
            if pool in {None, one.pool}
            and (label is None or (key in one.labels and (not equals or one.labels[key] == value)))
        ]
        shown, following = page(sorted(volumes, key=lambda one: one.name), lambda one: one.name, limit, cursor)
        items = []
        for one in shown:
            with contextlib.suppress(NotFound):  # It was deleted since the page was cut.
                items.append(await self._item(one))
        return {"items": items, "next": following}

    async def volume_get(self, name: str) -> Item:
        """One volume."""
        return await self._item(self._state.volume(name))

    async def volume_update(self, name: str, changes: dict[str, Any]) -> Item:
        """Changes a volume while its hosts go on; they are told of what they can see.

        Args:
            changes: what is to be otherwise: new_name, size_bytes, labels (all that it is to have), and the fields of
                `catalog.Terms`. None takes a limit away.

        Raises:
            InvalidValue: a value is refused, a smaller size among them; then nothing is changed.
            NameTaken: another volume has the new name.
            InUse: write_through is to be taken from a volume that is exported.
        """
        async with self._state.change:
            volume = self._state.volume(name)
            pool = self._state.online_pool(volume.pool)
            changed = self._changed(volume, changes)
            size_bytes = changes.get("size_bytes")
            has = self._state.volume_bytes[volume.uuid]
            if size_bytes is not None:
                self._check_growth(name, size_bytes, has)
            if size_bytes is not None and size_bytes > has:
                await core.call(self._state.node.volume_resize, pool.uuid, volume.uuid, size_bytes)
                self._state.volume_bytes[volume.uuid] = size_bytes
                message = f"volume {name} grew from {has} to {size_bytes} bytes"
                self._state.events.add("info", "volume-resized", message, f"volume/{name}")
            if changed.name != name:
                await self._rename(volume, changed.name)
            if changed != volume:
                await self._state.put_document(volume.pool, volume.key, changed.encode())
                del self._state.volumes[name]
                self._state.volumes[changed.name] = changed
                await self._tell(volume, changed)
            if changed.terms != volume.terms:
                await core.call(self._state.node.volume_terms_set, pool.uuid, volume.uuid, changed.terms.for_core())
            return await self._item(changed)

    def _changed(self, volume: Volume, changes: Mapping[str, Any]) -> Volume:
        terms = check_terms(replace(volume.terms, **{key: changes[key] for key in TERMS_FIELDS & changes.keys()}))
        if volume.terms.write_through and not terms.write_through and self._state.exports_of(volume.name):
            # Hosts that were told that there is no cache do not flush, and would go on like this.
            what = f"hosts that see volume {volume.name} don't flush what they write"
            raise InUse(what, field="write_through", accepted="false for a volume without exports")
        new_name = check_name("new_name", changes.get("new_name", volume.name))
        if new_name != volume.name and new_name in self._state.volumes:
            raise NameTaken(f"there is a volume {new_name}", field="new_name", accepted="a name that no volume has")
        labels = check_labels("labels", changes.get("labels", volume.labels))
        return replace(volume, name=new_name, terms=terms, labels=labels)

    @staticmethod
    def _check_growth(name: str, size_bytes: int, has: int) -> None:
        check_volume_bytes("size_bytes", size_bytes)
        if size_bytes < has:
            raise InvalidValue(
                "size_bytes",
                f"volume {name} has {has} bytes, and a volume can't shrink in this release",
                f"{has} or more",
            )

    async def _rename(self, volume: Volume, new_name: str) -> None:
        """Has the volume's exports keep the names that hosts know, under its new name."""
        for export in self._state.exports_of(volume.name):
            # Before the volume's own document: what a crash leaves between the two changes no target's name.
            renamed = replace(export, volume=new_name, given_target=export.target)
            await self._state.put_document(volume.pool, renamed.key(volume), renamed.encode())
            del self._state.exports[export.id]
            self._state.exports[renamed.id] = renamed

    async def _tell(self, before: Volume, after: Volume) -> None:
        if after.name != before.name:
            message = f"volume {before.name} is called {after.name}"
            self._state.events.add("info", "volume-renamed", message, f"volume/{after.name}")
        old, new = asdict(before.terms), asdict(after.terms)
        others = [f"{key} {json.dumps(new[key])}" for key in new if new[key] != old[key]]
        if others:
            message = f"volume {after.name} has {', '.join(others)}"
            self._state.events.add("info", "volume-changed", message, f"volume/{after.name}")

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
            "delayed_requests": int(str(status["delayed_requests"])),
            **asdict(volume.terms),
            "labels": dict(volume.labels),
            "exports": sorted(export.id for export in self._state.exports_of(volume.name)),
            "created": volume.created,
        }
