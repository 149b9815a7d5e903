"""The engine: its start, its end, and what it answers over the socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import threading
import time
from collections.abc import Mapping

from sds import data_format
from sds._core import CoreError, Node
from sds.config import Config
from sds.engine import core, default
from sds.engine.access import Access
from sds.engine.catalog import PROTOCOLS, Protocol, page
from sds.engine.events import LEVELS, Event, Events
from sds.engine.meta import MetaThreads
from sds.engine.moving import Moving
from sds.engine.node_db import NodeDb
from sds.engine.opening import open_pool
from sds.engine.pools import Pools
from sds.engine.scrubs import Scrubs
from sds.engine.state import Item, PoolState, State
from sds.engine.volumes import Volumes
from sds.errors import SdsError
from sds.names import check_name
from sds.process import until_stopped
from sds.rpc import Handler, Server

log = logging.getLogger("sds.engine")

EVENTS_WAIT_MS = 200
POOL_RETRY_S = 5.0  # How often a pool that failed is tried again: its disk may have been plugged in.

# Settings that the core takes by the same names.
NODE_LIMITS = ("connections_max", "payload_bytes_max", "map_cache_bytes_max")


class Engine:
    """One node's engine, from its start to its end."""

    def __init__(self, config: Config) -> None:
        self._started = time.monotonic()
        self._config = config
        data_format.admit(config.data)
        self._db = NodeDb(config)
        self._events = Events(self._db.store)
        if self._db.set_aside is not None:
            message = f"the node's database was set aside and is made again from the pools': {self._db.set_aside}"
            self._events.add("warning", "metadata-set-aside", message, "node")
        try:
            limits = {name: getattr(config, name) for name in NODE_LIMITS}
            self._node = Node(config.cores, str(config.data), {"log_level": config.log_level, **limits})
        except CoreError as error:
            raise core.translated(error) from error
        self._meta = MetaThreads(self._node)
        self._state = State(config, self._node, self._db, self._events, self._meta)
        self.pools = Pools(self._state)
        self.moving = Moving(self._state, self.pools)
        self.scrubs = Scrubs(self._state)
        self.volumes = Volumes(self._state)
        self.access = Access(self._state)
        self._pumping = threading.Event()

    async def run(self) -> None:
        """Opens everything, serves until SIGTERM or SIGINT, and stops in order."""
        server = Server(self._config.socket, self.methods())
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._open()
            await server.start()
            work = (self._retry_pools(), self._pump_events(), self.scrubs.run())
            tasks = [asyncio.create_task(one) for one in work]
            took_ms = round((time.monotonic() - self._started) * 1000)
            log.info("serving %s after %d ms", ", ".join(self._state.addresses.values()), took_ms)
            await until_stopped()
        finally:
            self._pumping.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.stop()
            # The core still writes its last checkpoint through the threads while it stops.
            await asyncio.to_thread(self._node.stop)
            await asyncio.to_thread(self._meta.stop)
            self._db.close()

    async def _open(self) -> None:
        for host in self._db.hosts():
            self._state.hosts[host.name] = host
        for pool in self._db.pools():
            self._state.pools[pool.name] = PoolState(pool)
        for found in list(self._state.pools.values()):
            await open_pool(self._state, found)
        # Exports first: a host that reconnects must not find a target without its volume.
        await self._state.publish()
        for protocol in PROTOCOLS:
            self._state.addresses[protocol] = await self._listen(protocol)
        if self._config.embedded_default:
            try:
                await default.make(self._state, self.pools, self.volumes, self.access)
            except SdsError as error:
                message = f"the embedded default could not be made: {error.detail}"
                self._events.add("error", "default-not-made", message)

    async def _listen(self, protocol: Protocol) -> str:
        nvme = protocol == "nvme"
        address = str(self._config.nvme if nvme else self._config.iscsi)
        try:
            return await core.call(self._node.listen_nvme if nvme else self._node.listen_iscsi, address)
        except SdsError as error:
            raise SdsError(f"{protocol} can't listen on {address}: {error.detail}", field=protocol) from error

    async def _retry_pools(self) -> None:
        while True:
            await asyncio.sleep(POOL_RETRY_S)
            async with self._state.change:
                failed = [found for found in self._state.pools.values() if found.state == "failed"]
                for found in failed:
                    # Whoever has a disk of it is asked again soon; commands wait for this lock.
                    await open_pool(self._state, found, wait_ms=0)
                if failed:
                    await self._state.publish()

    async def _pump_events(self) -> None:
        while not self._pumping.is_set():
            events = await asyncio.to_thread(self._node.events_next, EVENTS_WAIT_MS)
            for event in events or []:
                level = str(event.get("level", "error")).lower()
                level = level if level in LEVELS else "error"
                kind, message = str(event.get("kind", "core")), str(event.get("message", event))
                self._events.add(level, kind, message, str(event.get("subject", "")))

    def methods(self) -> Mapping[str, Handler]:
        """What is answered over the socket, by name."""
        parts = (self.pools, self.moving, self.scrubs, self.volumes, self.access, self)
        nouns = ("pool", "scrub", "disk", "volume", "host", "export", "event", "metrics", "health", "heat")
        verbs = (
            "create",
            "add",
            "import",
            "list",
            "get",
            "update",
            "export",
            "delete",
            "start",
            "stop",
            "check",
        )
        names = [f"{noun}_{verb}" for noun in nouns for verb in verbs]
        return {name: getattr(part, name) for part in parts for name in names if hasattr(part, name)}

    async def event_list(self, level: str | None = None, limit: int | None = None, cursor: str | None = None) -> Item:
        """A page of events, the newest first; those of one level if it is named."""

        def key(event: Event) -> str:
            return f"{event['id']:016}"

        if level is not None:
            check_name("level", level)
        events = [event for event in self._events.newest_first() if level in {None, event["level"]}]
        shown, following = page(events, key, limit, cursor, descending=True)
        return {"items": shown, "next": following}

    async def health_get(self) -> Item:
        """Whether everything that should serve does.

        Returns:
            status: `ok` or `degraded`; detail: what is wrong with each pool, None if nothing; pools: state by name;
            pid; uptime_s.
        """
        found = [self._state.pools[name] for name in sorted(self._state.pools)]
        troubles = [f"pool {one.pool.name}: {trouble}" for one in found if (trouble := await self.pools.trouble(one))]
        return {
            "status": "degraded" if troubles else "ok",
            "detail": "; ".join(troubles) or None,
            "pools": {one.pool.name: one.state for one in found},
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 1),
        }

    async def metrics_get(self) -> Item:
        """The core's counters, what pools, disks and volumes hold, and who is connected."""
        pools: list[object] = []
        for name in sorted(self._state.pools):
            with contextlib.suppress(SdsError):  # A pool that is being deleted is left out.
                pools.append(await self.pools.pool_get(name))
        volumes: list[object] = []
        for name in sorted(self._state.volumes):
            with contextlib.suppress(SdsError):
                volumes.append(await self.volumes.volume_get(name))
        disks = await self.pools.disk_list(limit=1000)
        return {
            "core": await core.call(self._node.metrics),
            "sessions": len(await core.call(self._node.sessions)),
            "pools": pools,
            "disks": disks["items"],
            "volumes": volumes,
            "uptime_s": round(time.monotonic() - self._started, 1),
        }

    async def heat_get(self) -> Item:
        """How often each volume was read and written since the engine's start.

        Returns:
            volumes: a list of {volume, pool, reads, writes}.
        """
        heat: list[Item] = []
        for name, volume in sorted(self._state.volumes.items()):
            pool = self._state.pools[volume.pool]
            if pool.state != "online":
                continue
            with contextlib.suppress(SdsError):  # One that is being deleted is left out.
                status = await core.call(self._node.volume_status, pool.pool.uuid, volume.uuid)
                counted = {key: int(str(status[key])) for key in ("reads", "writes")}
                heat.append({"volume": name, "pool": volume.pool, **counted})
        return {"volumes": heat}


async def main(config: Config) -> None:
    """Runs an engine on a data folder that its caller has locked.

    Raises:
        SdsError: it can't start.
    """
    # Each connection and disk is an open file; login shells and systemd leave the soft limit at 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    await Engine(config).run()
