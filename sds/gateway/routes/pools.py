"""/v1/pools"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import (
    Page,
    Pool,
    PoolCheck,
    PoolChecked,
    PoolCreate,
    PoolExport,
    PoolExported,
    PoolImport,
    Scrub,
    ScrubSchedule,
    ScrubStart,
)
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created, was_there

IMPORT_LIMIT_S = 600.0  # All owner tables are read: gigabytes at 100 TiB.
CHECK_LIMIT_S = 3600.0  # 3.6 million pages at the default rate: hundreds of TiB, three times.

router = APIRouter(prefix="/v1/pools", tags=["pools"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Pool, responses=was_there(Pool))
async def create(engine: Engine, body: PoolCreate, response: Response) -> Any:
    """Makes a pool. It has no disk at first."""
    return created(response, await engine.call("pool_create", **body.model_dump()))


@router.post("/import", status_code=201, response_model=Pool, responses=was_there(Pool))
async def take_over(engine: Engine, body: PoolImport, response: Response) -> Any:
    """Takes over a pool from its disks: volumes, exports and their hosts come along."""
    return created(response, await engine.call_within(IMPORT_LIMIT_S, "pool_import", **body.model_dump()))


@router.get("", response_model=Page[Pool])
async def index(engine: Engine, limit: Limit = None, cursor: Cursor = None) -> Any:
    """Lists pools by name."""
    return await engine.call("pool_list", limit=limit, cursor=cursor)


@router.get("/{name}", response_model=Pool)
async def get(engine: Engine, name: str) -> Any:
    """One pool."""
    return await engine.call("pool_get", name=name)


@router.post("/{name}/check", response_model=PoolChecked)
async def check(engine: Engine, name: str, body: PoolCheck) -> Any:
    """Compares all that speaks of the same, while hosts go on; answers when it is done."""
    return await engine.call_within(CHECK_LIMIT_S, "pool_check", name=name, **body.model_dump())


@router.post("/{name}/export", response_model=PoolExported)
async def export(engine: Engine, name: str, body: PoolExport) -> Any:
    """Closes a pool in order and forgets it on this node; its disks keep what they hold."""
    return await engine.call_within(IMPORT_LIMIT_S, "pool_export", name=name, **body.model_dump())


@router.delete("/{name}", status_code=204)
async def delete(engine: Engine, name: str) -> None:
    """Deletes a pool without volumes; its disks are blank after."""
    await engine.call("pool_delete", name=name)


@router.post("/{name}/scrub", status_code=202, response_model=Scrub)
async def scrub_start(engine: Engine, name: str, body: ScrubStart) -> Any:
    """Begins to read and verify all that is sealed in the pool, and to seal what was not written for long."""
    return await engine.call("scrub_start", pool=name, **body.model_dump())


@router.get("/{name}/scrub", response_model=Scrub)
async def scrub_get(engine: Engine, name: str) -> Any:
    """The pool's last scrub, or the one that is running."""
    return await engine.call("scrub_get", pool=name)


@router.put("/{name}/scrub", response_model=Scrub)
async def scrub_update(engine: Engine, name: str, body: ScrubSchedule) -> Any:
    """Sets at what interval the pool is scrubbed by itself."""
    return await engine.call("scrub_update", pool=name, **body.model_dump())


@router.delete("/{name}/scrub", status_code=204)
async def scrub_stop(engine: Engine, name: str) -> None:
    """Ends a scrub that is running."""
    await engine.call("scrub_stop", pool=name)
