"""The embedded default: what a first start makes, so that a host can mount something at once."""

from __future__ import annotations

import logging
import shutil

from sds.engine.access import Access
from sds.engine.admission import DISK_BYTES_MIN
from sds.engine.pools import Pools
from sds.engine.sizes import sizes
from sds.engine.state import State
from sds.engine.volumes import Volumes
from sds.names import GIB

log = logging.getLogger(__name__)

POOL = "default"
VOLUME = "demo"
VOLUME_BYTES = 16 * GIB


async def make(state: State, pools: Pools, volumes: Volumes, access: Access) -> None:
    """Makes pool `default` on two file-backed disks and exports the thin volume `demo` of it over both protocols.

    Each step leaves alone what is there already, so a start that was cut off is continued. An administrator's later
    changes stay: it is done once in the life of a data folder.
    """
    if state.db.default_made:
        return
    disks = state.config.disks
    disks.mkdir(mode=0o700, exist_ok=True)
    flash, hdd = sizes(shutil.disk_usage(disks).free)
    if flash < DISK_BYTES_MIN:
        message = f"{disks} has too little free space for the embedded default: a quarter of it would not hold a disk"
        state.events.add("warning", "default-not-made", message)
        return
    present = set(disks.glob("*.img"))
    await pools.pool_create(POOL)
    for tier, size in (("flash", flash), ("hdd", hdd)):
        path = disks / f"{tier}.img"
        await pools.disk_add(POOL, str(path), tier, create_bytes=None if path in present else size)
    await volumes.volume_create(VOLUME, POOL, VOLUME_BYTES)
    for protocol in ("nvme", "iscsi"):
        await access.export_create(VOLUME, protocol, any_host=True)
    state.db.set_default_made()
