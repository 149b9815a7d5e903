"""Samples heat over the engine's socket and logs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from sds.config import Config
from sds.errors import SdsError
from sds.process import until_stopped
from sds.rpc import Client

log = logging.getLogger("sds.tiering")

CALL_LIMIT_S = 60.0
RETRY_S = 5.0
ENGINE_AWAY_WARN = 6  # Samples missed in a row, half a minute, before it is worth a person's look.


async def main(config: Config) -> None:
    """Samples every `heat_sample_s` seconds until SIGTERM or SIGINT."""
    log.info("observing heat every %d s; this release plans and moves nothing", config.heat_sample_s)
    engine = Client(config.socket, call_limit_s=CALL_LIMIT_S)
    sampling = asyncio.create_task(_sample_for_ever(engine, config.heat_sample_s))
    stopped = asyncio.create_task(until_stopped())
    await asyncio.wait({sampling, stopped}, return_when=asyncio.FIRST_COMPLETED)
    for task in (sampling, stopped):
        task.cancel()
    results = await asyncio.gather(sampling, stopped, return_exceptions=True)
    await engine.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _sample_for_ever(engine: Client, period_s: float) -> None:
    missed = 0
    while True:
        try:
            sample = await engine.call("heat_get")
        except SdsError as error:
            missed += 1
            level = logging.WARNING if missed == ENGINE_AWAY_WARN else logging.INFO
            log.log(level, "no sample, %d in a row: %s", missed, error.detail)
        else:
            missed = 0
            log.info("%s", summary(sample))
        # After a restart the engine is back in seconds; a whole period would be lost otherwise.
        await asyncio.sleep(min(period_s, RETRY_S) if missed else period_s)


def summary(sample: Mapping[str, Any]) -> str:
    """One line about a sample: what was counted since the engine's start, by volume."""
    volumes = sample["volumes"]
    if not volumes:
        return "heat: no volume"
    parts = [f"{one['volume']} {one['reads']} reads {one['writes']} writes" for one in volumes]
    return f"heat of {len(parts)} volumes since the engine's start: {', '.join(parts)}"
