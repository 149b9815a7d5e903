"""/v1/disks"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from sds.gateway.models import Disk, DiskAdd, Page
from sds.gateway.routes import PROBLEMS, Cursor, Engine, Limit, created, was_there

router = APIRouter(prefix="/v1/disks", tags=["disks"], responses=PROBLEMS)


@router.post("", status_code=201, response_model=Disk, responses=was_there(Disk))
async def add(engine: Engine, body: DiskAdd, response: Response) -> Any:
    """Adds a disk to a pool. One that carries something is refused unless forced; one in use always."""
    return created(response, await engine.call("disk_add", **body.model_dump()))


@router.get("", response_model=Page[Disk])
async def index(engine: Engine, pool: str | None = None, limit: Limit = None, cursor: Cursor = None) -> Any:
    """Lists disks by pool and uuid."""
    return await engine.call("disk_list", pool=pool, limit=limit, cursor=cursor)


@router.get("/{uuid}", response_model=Disk)
async def get(engine: Engine, uuid: str) -> Any:
    """One disk."""
    return await engine.call("disk_get", disk=uuid)
