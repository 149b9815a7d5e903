"""What the engine's parts share: the core, the databases, and the catalog as it is now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sds.config import Config
from sds.engine import core
from sds.engine.catalog import Export, Host, Pool, Protocol, Volume
from sds.engine.events import Events
from sds.engine.meta import MetaThreads
from sds.engine.node_db import NodeDb
from sds.errors import Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from sds._core import Node

log = logging.getLogger(__name__)

Item = dict[str, object]


@dataclass
class PoolState:
    """A pool and how it is.

    Attributes:
        state: `empty` (no disk yet), `online` or `failed`.
        message: why it failed, or what is wrong with it though it is online.
    """

    pool: Pool
    state: str = "empty"
    message: str = ""


@dataclass
class State:
    """Everything that is changed runs under `change`, one command at a time; reads do not wait for it."""

    config: Config
    node: Node
    db: NodeDb
    events: Events
    meta: MetaThreads
    addresses: dict[Protocol, str] = field(default_factory=dict)
    pools: dict[str, PoolState] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    volume_bytes: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    exports: dict[str, Export] = field(default_factory=dict)
    change: asyncio.Lock = field(default_factory=asyncio.Lock)

    def pool(self, name: str) -> PoolState:
        """A pool by name.

        Raises:
            NotFound: there is none.
        """
        if name not in self.pools:
            raise NotFound(f"there is no pool {name!r}", field="pool")
        return self.pools[name]

    def online_pool(self, name: str) -> Pool:
        """A pool that takes commands.

        Raises:
            NotFound: there is none of that name.
            Conflict: it has no disk.
            Unavailable: it failed.
        """
        found = self.pool(name)
        if found.state == "empty":
            raise Conflict(
                f"pool {name} has no disk yet", field="pool", accepted=f"after: sds disk add {name} PATH --tier TIER"
            )
        if found.state != "online":
            raise Unavailable(f"pool {name} is not online: {found.message}", field="pool")
        return found.pool

    def volume(self, name: str) -> Volume:
        """A volume by name.

        Raises:
            NotFound: there is none.
        """
        if name not in self.volumes:
            raise NotFound(f"there is no volume {name!r}", field="volume")
        return self.volumes[name]

    def exports_of(self, volume: str) -> list[Export]:
        """A volume's exports."""
        return [export for export in self.exports.values() if export.volume == volume]

    def volumes_in(self, pool: str) -> list[Volume]:
        """A pool's volumes, by name."""
        return sorted((one for one in self.volumes.values() if one.pool == pool), key=lambda one: one.name)

    def online(self) -> Iterator[Pool]:
        """Every pool that is online."""
        return (one.pool for one in self.pools.values() if one.state == "online")

    async def put_document(self, pool: str, key: str, value: bytes | None) -> None:
        """Stores or removes a document of a pool, durably."""
        await core.call(self.node.document_put, self.pools[pool].pool.uuid, key, value)

    async def publish(self) -> None:
        """Gives the core the export table as the catalog has it now."""
        table: list[dict[str, object]] = []
        for export in self.exports.values():
            volume = self.volumes.get(export.volume)
            if volume is None or volume.state != "ready" or self.pools[volume.pool].state != "online":
                continue
            table.append(
                {
                    "protocol": export.protocol,
                    "name": export.target,
                    "unit": unit_of(export),
                    "pool": self.pools[volume.pool].pool.uuid,
                    "volume": volume.uuid,
                    "serial": volume.serial,
                    "access": "any" if export.any_host else self._initiators(export),
                }
            )
        await core.call(self.node.exports_set, table)

    def _initiators(self, export: Export) -> list[str]:
        names = []
        for name in export.hosts:
            host = self.hosts.get(name)
            initiator = host.initiator(export.protocol) if host else None
            if initiator is None:
                log.warning("export %s names host %s, which has no %s name", export.id, name, export.protocol)
            else:
                names.append(initiator)
        return names


def unit_of(export: Export) -> int:
    """The nsid or LUN: every export is the only one of its subsystem or target."""
    return 1 if export.protocol == "nvme" else 0
