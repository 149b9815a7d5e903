"""Scrubs: a pool's metadata and all that is sealed in it are read and verified, on command or at an interval."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sds.engine import core
from sds.engine.state import Item, State
from sds.errors import InvalidValue, SdsError

log = logging.getLogger(__name__)

DOCUMENT = "scrub"  # The pool's document with its schedule.
RATE_BYTES_PER_S = 100 << 20  # Unless asked otherwise: a third of what a disk that turns can read in a row.
INTERVAL_HOURS_MAX = 10_000
LOOK_S = 60  # How often it is looked whether a scrub is due.


@dataclass(frozen=True)
class Schedule:
    """When a pool is scrubbed by itself."""

    interval_hours: int = 0  # 0: never.
    bytes_per_second_max: int = RATE_BYTES_PER_S
    last_began_s: float = 0.0  # Unix time of the last one that was begun, on command or by schedule.

    def encode(self) -> bytes:
        """The document."""
        return json.dumps(self.__dict__).encode()

    @classmethod
    def decode(cls, data: bytes) -> Schedule:
        """A document's schedule."""
        found = json.loads(data)
        return cls(int(found["interval_hours"]), int(found["bytes_per_second_max"]), float(found["last_began_s"]))

    def due(self, now_s: float) -> bool:
        """Whether a scrub is to begin at Unix time `now_s`."""
        return self.interval_hours > 0 and now_s >= self.last_began_s + 3600 * self.interval_hours


class Scrubs:
    """Commands about scrubs, and the task that begins those that are due."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def scrub_start(self, pool: str, bytes_per_second_max: int | None = None) -> Item:
        """Begins a scrub.

        Raises:
            NotFound, Unavailable: there is no such pool, or it is not online.
            Conflict: one is running.
            InvalidValue: the limit is refused.
        """
        async with self._state.change:
            return await self._start(pool, bytes_per_second_max)

    async def scrub_get(self, pool: str) -> Item:
        """The last scrub since the pool was opened, and the schedule."""
        uuid = self._state.online_pool(pool).uuid
        found = await core.call(self._state.node.pool_scrub_status, uuid)
        schedule = await self._schedule(pool)
        return {
            "pool": pool,
            "state": found["state"],
            "began": _time(found["began_s"]) if found["state"] != "none" else None,
            "ended": _time(found["ended_s"]),
            "bytes_per_second_max": found["bytes_per_second_max"],
            "progress": _progress(found),
            "unsealed_blocks": found["unsealed_blocks"],
            "disks": found["disks"],
            "schedule": {
                "interval_hours": schedule.interval_hours,
                "bytes_per_second_max": schedule.bytes_per_second_max,
            },
        }

    async def scrub_stop(self, pool: str) -> None:
        """A scrub that is running ends soon."""
        await core.call(self._state.node.pool_scrub_stop, self._state.online_pool(pool).uuid)

    async def scrub_update(self, pool: str, interval_hours: int, bytes_per_second_max: int | None = None) -> Item:
        """Sets the schedule; 0 hours is none.

        Raises:
            NotFound, Unavailable: there is no such pool, or it is not online.
            InvalidValue: the interval or the limit is refused.
        """
        if not 0 <= interval_hours <= INTERVAL_HOURS_MAX:
            raise InvalidValue(
                "interval_hours", f"an interval of {interval_hours} hours", f"0 (never) to {INTERVAL_HOURS_MAX}"
            )
        async with self._state.change:
            old = await self._schedule(pool)
            schedule = Schedule(interval_hours, _rate(bytes_per_second_max), old.last_began_s)
            await self._state.put_document(pool, DOCUMENT, schedule.encode())
        return await self.scrub_get(pool)

    async def run(self) -> None:
        """Begins what is due, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for pool in list(self._state.online()):
                try:
                    async with self._state.change:
                        schedule = await self._schedule(pool.name)
                        if schedule.due(time.time()):
                            await self._start(pool.name, schedule.bytes_per_second_max)
                except SdsError as error:
                    # One that is running, or a pool that failed meanwhile: it is due at the next look, too.
                    log.info("pool %s: the scrub that is due does not begin: %s", pool.name, error.detail)

    async def _start(self, pool: str, bytes_per_second_max: int | None) -> Item:
        uuid = self._state.online_pool(pool).uuid
        await core.call(self._state.node.pool_scrub_start, uuid, _rate(bytes_per_second_max))
        old = await self._schedule(pool)
        schedule = Schedule(old.interval_hours, old.bytes_per_second_max, time.time())
        await self._state.put_document(pool, DOCUMENT, schedule.encode())
        return await self.scrub_get(pool)

    async def _schedule(self, pool: str) -> Schedule:
        uuid = self._state.online_pool(pool).uuid
        found = (await core.call(self._state.node.documents, uuid)).get(DOCUMENT)
        return Schedule() if found is None else Schedule.decode(found)


def _rate(bytes_per_second_max: int | None) -> int:
    rate = RATE_BYTES_PER_S if bytes_per_second_max is None else bytes_per_second_max
    if rate < 1:
        raise InvalidValue("bytes_per_second_max", f"a limit of {rate} bytes a second", "1 or more")
    return rate


def _time(seconds: object) -> str | None:
    if not isinstance(seconds, float):
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _progress(found: dict[str, object]) -> float | None:
    pages, done = found["pages"], found["pages_done"]
    if not isinstance(pages, int) or not isinstance(done, int) or pages == 0:
        return 1.0 if found["state"] == "done" else None
    return round(done / pages, 4)
